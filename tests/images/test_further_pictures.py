"""Of files with several pages or frames the first is read, and what is not is counted and told once."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageSequence
from tiny import picture, tiny_spade

from fastspade.cli.model import tell_skipped
from fastspade.errors import ImageReadError, InputError, LeftOutWarning
from fastspade.evaluate.dataset import read_dataset
from fastspade.images import open_source
from fastspade.images.further import Further, further_pictures
from fastspade.images.masks import load_mask
from fastspade.images.safe_file import opened_bytes

FORMATS = {"a.gif": {}, "a.webp": {"lossless": True}, "a.png": {}, "a.tif": {}, "a.jpg": {"format": "MPO"}}
COLOURS = ("red", "blue", "lime")


def several(path, size: int = 64, **options) -> None:
    """A file of three pictures, the second and third of them one colour."""
    frames = [picture(1, size, size), *(Image.new("RGB", (size, size), colour) for colour in COLOURS[1:])]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)


def read(images) -> tuple[list[list[float]], list[str], list[str]]:
    """The first pixels, what `skipped` says, and the warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", LeftOutWarning)
        source = open_source(images, resize=None, crop=None)
        pixels = [one[:, 0, 0].tolist() for batch in source for one in batch.pixels]
    return (
        pixels,
        [str(error) for _, error in source.skipped],
        [str(one.message) for one in told if one.category is LeftOutWarning],
    )


@pytest.mark.parametrize("name", FORMATS)
def test_of_a_file_they_are_counted(tmp_path, name):
    several(tmp_path / name, **FORMATS[name])
    pixels, skipped, told = read(tmp_path / name)
    assert len(pixels) == 1 and skipped == [f"{tmp_path / name} holds 3 pictures, of which the first is read"]
    assert told == [f"images: 2 further pages or frames are left out, only the first of each file is read; {skipped[0]}"]


@pytest.mark.parametrize("name", FORMATS)
def test_of_bytes_and_pillow_images_too(tmp_path, name):
    several(tmp_path / name, **FORMATS[name])
    with further_pictures() as further, opened_bytes((tmp_path / name).read_bytes(), name):
        pass
    assert further == [2]
    with Image.open(tmp_path / name) as image:
        assert [len(found) for found in read(image)] == [1, 1, 1] and image.tell() == 0
        image.seek(2)
        assert read(image)[1:] == ([], [])  # whoever goes on to a frame wants that one
    with Image.open(tmp_path / name) as image:
        assert [len(found) for found in read(one for one in [image])] == [1, 1, 1]


def test_one_warning_tells_of_all_files(tmp_path):
    for name, options in FORMATS.items():
        several(tmp_path / name, **options)
    picture(0).save(tmp_path / "b.png")
    _, skipped, told = read(tmp_path)
    assert len(skipped) == 5 and len(told) == 1 and "10 further pages or frames are" in told[0]
    assert read(tmp_path / "b.png")[1:] == ([], [])


def test_fit_score_add_and_the_command_line_tell(tmp_path, capsys):
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    several(tmp_path / "several.tif")
    model = tiny_spade(k=1)
    with pytest.warns(LeftOutWarning, match="normal_images: 2 further"):
        model.fit(tmp_path)
    assert [error.further for _, error in model.skipped] == [2]
    said = str(model.skipped[0][1])
    with pytest.warns(LeftOutWarning, match="test_images: 2 further"):
        assert Further.of(model.score(tmp_path).skipped) == Further(2, said)
    with pytest.warns(LeftOutWarning, match="images: 2 further"):
        model.add(tmp_path / "several.tif")
    tell_skipped(model.bank.skipped)
    assert capsys.readouterr().err == f"2 further pages or frames are left out, only the first of each file is read; {said}\n"


def test_eval_finds_them_before_it_fits(tmp_path):
    for kind in ("good", "bad"):
        (tmp_path / kind).mkdir()
        for i in range(5):
            picture(i).save(tmp_path / kind / f"{i}.png")
        several(tmp_path / kind / "several.tif")
    (category,) = read_dataset(tmp_path, "folder")
    assert Further.of(category.skipped).pictures == 4 and len(category.train + category.test) == 12


@pytest.mark.parametrize("name", ["a.gif", "a.tif"])
def test_frames_that_pillow_yields_are_all_read(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in COLOURS]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / name) as image:
        pixels, skipped, told = read(frame for frame in ImageSequence.Iterator(image))
    assert pixels == [[1, 0, 0], [0, 0, 1], [0, 1, 0]] and not skipped and not told
    with (
        Image.open(tmp_path / name) as image,
        pytest.raises(InputError, match=r"images\[1\] is the same Pillow image of 3 frames"),
    ):
        open_source(list(ImageSequence.Iterator(image)))


def tiff(*kinds: int, big: bool = False, order: str = "<") -> bytes:
    """Gray pictures of 2 x 2 pixels, with these values of NewSubfileType."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(
        order + ("HHHQ" if big else "HI"), *((43, 8, 0, 16) if big else (42, 8))
    )
    count, value, jump = ("Q", "HHQI4x", "Q") if big else ("H", "HHII", "I")
    found = head
    for i, kind in enumerate(kinds):
        tags = [(254, kind), (256, 2), (257, 2), (258, 8), (259, 1), (262, 1), (273, 0), (277, 1), (278, 2), (279, 4)]
        size = struct.calcsize(order + count) + len(tags) * struct.calcsize(order + value) + struct.calcsize(order + jump)
        pixels = len(found) + size
        found += struct.pack(order + count, len(tags))
        for tag, number in tags:
            found += struct.pack(order + value, tag, 4, 1, pixels if tag == 273 else number)
        found += struct.pack(order + jump, 0 if i == len(kinds) - 1 else pixels + 4) + bytes([10, 20, 30, 40])
    return found


@pytest.mark.parametrize(("big", "order"), [(False, "<"), (False, ">"), (True, "<")])  # Pillow refuses the fourth
def test_smaller_copies_and_masks_in_a_tiff_are_no_further_pictures(big, order):
    for kinds, further in (((0,), []), ((0, 1, 1), []), ((0, 4), []), ((1, 0), []), ((0, 0, 1, 2), [2])):
        with further_pictures() as found, opened_bytes(tiff(*kinds, big=big, order=order), "a.tif") as image:
            assert image.size == (2, 2)
        assert found == further, kinds


def test_damage_behind_the_first_picture_does_not_matter():
    data = bytearray(tiff(0, 0, 0))
    for broken in (bytes(data[: len(data) // 3 + 10]), bytes(data[: len(data) // 2 + 20])):
        with further_pictures() as found, opened_bytes(broken, "a.tif") as image:
            assert np.asarray(image).tolist() == [[10, 20], [30, 40]] and found in ([], [1])


def test_a_circle_of_pages_ends():
    data = bytearray(tiff(0))
    data[-8:-4] = struct.pack("<I", 8)
    with further_pictures() as found, opened_bytes(bytes(data), "a.tif"):
        assert found == []


def test_masks_of_several_pages_are_refused(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (0, 255)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageReadError, match="it holds 2 pictures; a mask must be one"):
        load_mask(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(tiff(0, 1))
    assert load_mask(tmp_path / "b.tif").all()
