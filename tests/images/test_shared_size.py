"""Pictures of any shape: one size for all of a model, crops of any shape, and what is told of pictures not wholly seen."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny import picture
from torch.utils.data import DataLoader

from fastspade.errors import InputError
from fastspade.images import open_source
from fastspade.images.geometry import Fitting

WHOLE = {"resize": "whole", "crop": None}


def shapes(source) -> set[tuple[int, int]]:
    return {tuple(batch.pixels.shape[-2:]) for batch in source}


@pytest.mark.parametrize(
    ("fitting", "size", "shared"),
    [
        (Fitting(), (300, 300), (256, 256)),
        (Fitting(), (500, 1250), (160, 416)),
        (Fitting(), (5000, 200), (1280, 64)),
        (Fitting((14, 14), 224), (300, 300), (224, 224)),
        (Fitting((14, 14), 518), (518, 1036), (364, 728)),
        (Fitting(fixed=(224, 224)), (500, 1250), (224, 224)),
    ],
)
def test_the_shared_size_keeps_the_aspect_ratio_and_suits_the_network(fitting, size, shared):
    assert fitting.shared([size]) == shared


@pytest.mark.filterwarnings("ignore:.*another aspect ratio")
def test_the_shared_size_is_of_the_median_aspect_ratio():
    pictures = [picture(i, *size) for i, size in enumerate([(40, 80), (40, 80), (80, 40), (50, 100), (64, 64)])]
    source = open_source(pictures, **WHOLE, fitting=Fitting(side=64, multiple=(4, 4)))
    assert source.settle() == (44, 92) and shapes(source) == {(44, 92)}
    assert all(
        (box.top, box.left, box.height, box.width) == (0, 0, *size)
        for batch in source
        for box, size in zip(batch.crops, batch.sizes, strict=True)
    )


def test_a_number_without_a_crop_is_the_shared_sizes_shorter_side():
    assert shapes(open_source([picture(0, 50, 125)], resize=96, crop=None)) == {(96, 256)}
    assert shapes(open_source([picture(0, 125, 50)], resize=96, crop=None)) == {(256, 96)}


@pytest.mark.filterwarnings("ignore:.*the crop leaves")
def test_pairs_are_height_and_width():
    source = open_source([picture(0, 90, 160)], resize=(72, 120), crop=(36, 60))
    batch = next(iter(source))
    box = batch.crops[0]
    assert batch.pixels.shape[-2:] == (36, 60) and (box.top, box.left, box.height, box.width) == (22.5, 40, 45, 80)
    assert shapes(open_source([picture(0, 90, 160)], resize="72x120", crop="36x60")) == {(36, 60)}


def test_files_are_measured_from_their_headers_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown standing
    picture(0, 100, 200).save(tmp_path / "a.jpg", exif=exif)
    source = open_source(str(tmp_path), **WHOLE)
    assert source.settle() == (352, 192) and shapes(source) == {(352, 192)}


def test_a_loader_gives_all_pictures_though_its_first_are_looked_at():
    tensors = [np.float32(np.random.default_rng(i).random((3, 20, 40))) for i in range(20)]
    for loader in (DataLoader(tensors, batch_size=3), iter(DataLoader(tensors, batch_size=3))):
        source = open_source(loader, **WHOLE)
        assert source.settle() == (192, 352)
        assert sum(len(batch) for batch in source) == 20


def test_unreadable_files_do_not_settle_the_size(tmp_path):
    picture(0, 100, 200).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes(b"no picture")
    source = open_source(str(tmp_path), **WHOLE, skip_bad=True)
    assert shapes(source) == {(192, 352)} and len(source.skipped) == 1


def test_what_a_crop_leaves_out_is_told_once():
    pictures = [picture(i, 90, 160) for i in range(5)]
    with pytest.warns(UserWarning, match="normal_images: the crop leaves 50% of the pictures out") as told:
        list(open_source(pictures, resize=96, crop=90, batch_size=2, argument="normal_images"))
    assert len(told) == 1


def test_little_left_out_and_little_distorted_is_not_told(recwarn):
    list(open_source([picture(0, 100, 100)], resize=100, crop=93))
    list(open_source([picture(0, 100, 100)], resize=(100, 120), crop=None))
    assert len(recwarn) == 0


def test_pictures_of_another_aspect_ratio_are_told_of_once():
    pictures = [picture(i, 100, 100 if i < 5 else 200) for i in range(9)]
    with pytest.warns(UserWarning, match=r"image_00005 has 100x200 pixels, of another aspect ratio than the 256x256") as told:
        list(open_source(pictures, **WHOLE, batch_size=2))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "all"}, "resize must be a number of pixels, a pair .* or 'whole', got 'all'"),
        ({"resize": (1, 2, 3)}, r"resize must be a number .* got \(1, 2, 3\)"),
        ({"resize": (0, 5)}, "resize must be at least 1, got 0"),
        ({"resize": (64, 96), "crop": (65, 64)}, r"crop must not exceed resize \(\(64, 96\)\), got \(65, 64\)"),
        ({"resize": 64, "crop": (65, 100)}, r"crop must not exceed resize \(64\)"),
    ],
)
def test_sizes_that_cannot_be_are_named(options, message):
    with pytest.raises(InputError, match=message):
        open_source([picture(0)], **options)
