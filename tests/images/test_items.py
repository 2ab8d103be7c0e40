"""Whatever holds or yields pictures is read whole: lists, sets, series, generators, loaders, stacks; and buffers used again."""

from __future__ import annotations

import io
import re
from collections import deque

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import picture, tiny_spade
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fastspade.errors import DtypeError, FastspadeError, InputError, MissingFileError
from fastspade.images import open_source

AS_IS = {"resize": None, "crop": None}
GRAY = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)


def pixels(images, **options) -> torch.Tensor:
    """(N, 3, H, W) of all pictures."""
    return torch.cat([batch.pixels for batch in open_source(images, **AS_IS, **options)])


def flat(value: int, width: int = 8) -> np.ndarray:
    return np.full((8, width, 3), value, np.uint8)


def values(images, **options) -> list[int]:
    """The value of every flat picture."""
    found = [batch.pixels[:, 0, 0, 0] for batch in open_source(images, resize=8, crop=8, **options)]
    return [round(255 * value) for value in torch.cat(found).tolist()]


# -- collections and streams


class Column:
    """As a Series is: no sequence, but an array for whoever asks."""

    def __init__(self, items: list) -> None:
        self._items = items

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self._items, dtype=object)


class Numbered(Dataset):
    """Indexed, without __iter__, with a label each."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return flat(10 * i + 10), i


@pytest.mark.parametrize(
    "make",
    [
        lambda paths: (path for path in paths),
        lambda paths: map(str, paths),
        lambda paths: paths[0].parent.glob("?.png"),
        lambda paths: dict(enumerate(paths)).values(),
        lambda paths: set(paths),
        lambda paths: frozenset(map(str, paths)),
        lambda paths: deque(paths),
        lambda paths: np.array([str(path) for path in paths]),
        lambda paths: np.array([bytes(path) for path in paths]),
        lambda paths: Column(paths),
        lambda paths: (Image.open(path) for path in paths),
        lambda paths: (np.asarray(Image.open(path)) for path in paths),
        lambda paths: ((path, 0) for path in paths),
        lambda paths: Numbered(),
        lambda paths: iter([[paths[0], paths[1]], [paths[2]]]),
        lambda paths: iter([str(paths[0].parent)]),
    ],
)
def test_any_iterable_of_pictures_is_read(tmp_path, make):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(flat(10 * i + 10)).save(path)
    assert sorted(values(make(paths))) == [10, 20, 30]


def test_a_series_of_paths_is_read(tmp_path):
    pandas = pytest.importorskip("pandas")
    Image.fromarray(flat(7)).save(tmp_path / "a.png")
    assert values(pandas.Series([str(tmp_path / "a.png")] * 2)) == [7, 7]


def test_a_set_of_paths_has_one_order(tmp_path):
    for name in "bca":
        Image.fromarray(flat(ord(name))).save(tmp_path / f"{name}.png")
    assert values({str(tmp_path / f"{name}.png") for name in "cab"}) == [97, 98, 99]


@pytest.mark.parametrize("given", [{"a": flat(1)}, b"picture.png", memoryview(b"x")])
def test_what_would_be_gone_through_wrongly_is_refused(given):
    with pytest.raises(DtypeError, match=f"images must be a path.*got {type(given).__name__}"):
        open_source(given)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_missing_file_of_a_stream_is_named(tmp_path, skip_bad):
    Image.fromarray(flat(7)).save(tmp_path / "a.png")
    source = open_source((tmp_path / name for name in ("a.png", "gone.png", "a.png")), batch_size=2, skip_bad=skip_bad)
    if not skip_bad:
        with pytest.raises(MissingFileError, match=r"item 1: .*gone\.png"):
            list(source)
        return
    assert [len(batch) for batch in source] == [2]
    assert [name for name, _ in source.skipped] == [str(tmp_path / "gone.png")]


# -- what a loader yields


def tensors(*widths: int, channels: int = 3) -> list[torch.Tensor]:
    return [torch.full((channels, 8, width), 10 * i / 255 + 10 / 255) for i, width in enumerate(widths)]


@pytest.mark.parametrize(
    "item",
    [
        tensors(8, 9, 10),
        tuple(tensors(8, 9, 10)),
        list(zip(tensors(8, 9, 10), [0, 1, 0])),
        [tuple(tensors(8, 9, 10)), (0, 1, 0)],
        [tensors(8, 9, 10), ["good", "good", "bad"]],
        [tensors(8, 9, 10), torch.tensor([0, 1, 0])],
        [[one, "good.png"] for one in tensors(8, 9, 10)],
        [np.asarray(one.permute(1, 2, 0)) for one in tensors(8, 9, 10)],
        [Image.fromarray(flat(10 * i + 10, 8 + i)) for i in range(3)],
        [torch.stack(tensors(8, 8, 8)), torch.tensor([0, 1, 0])],
        [torch.stack(tensors(8, 8, 8)), torch.zeros(3, 1, 8, 8)],  # masks
        [torch.stack(tensors(8, 8, 8)), torch.zeros(3, 8, 8)],
        (torch.stack(tensors(8, 8, 8)), ["a.png", "b.png", "c.png"], torch.zeros(3, 1, 8, 8)),
    ],
)
def test_every_picture_of_a_loaders_item_is_read(item):
    assert values(iter([item, item])) == [10, 20, 30] * 2


@pytest.mark.parametrize(
    "item", [(torch.rand(3, 8, 8), torch.rand(1, 8, 8)), [torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)], (flat(1), GRAY)]
)
def test_a_picture_and_its_mask_are_not_taken_for_two_pictures(item):
    with pytest.raises(InputError, match="item 0 holds 2 pictures of .* channels: a picture and its mask, or several"):
        list(open_source(iter([item])))


def test_a_loader_whose_batches_are_lists_fits_all_its_pictures():
    given = [torch.from_numpy(np.array(picture(i, 64, 64 + 4 * i))).permute(2, 0, 1) for i in range(5)]
    model = tiny_spade().fit(DataLoader(given, batch_size=3, collate_fn=list))
    assert len(model.bank) == 5
    assert np.array_equal(
        model.score(DataLoader(given, batch_size=2, collate_fn=tuple)).image_scores, model.score(given).image_scores
    )


# -- gray and stacks


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: torch.from_numpy(GRAY)[None], 1),
        (lambda: torch.from_numpy(GRAY)[None].float() / 255, 1),
        (lambda: torch.from_numpy(GRAY.astype(np.uint16) * 257)[None], 1),
        (lambda: torch.from_numpy(np.stack([GRAY] * 5))[:, None], 5),
        (lambda: np.stack([GRAY] * 4), 4),
        (lambda: np.stack([GRAY] * 7), 7),
        (lambda: np.stack([GRAY] * 3)[..., None], 3),
        (lambda: GRAY[None], 1),
        (lambda: DataLoader(TensorDataset(torch.from_numpy(np.stack([GRAY] * 5))[:, None], torch.arange(5)), batch_size=2), 5),
        (lambda: [Image.fromarray(GRAY), GRAY], 2),
    ],
)
def test_gray_pictures_of_every_kind_read_alike(make, count):
    found = pixels(make())
    assert found.shape == (count, 3, 48, 64)
    np.testing.assert_allclose(found.numpy() * 255, np.broadcast_to(GRAY, found.shape), atol=1e-3)


@pytest.mark.parametrize("scale", [1, 255])
def test_tensors_with_alpha_lie_on_white(scale):
    tensor = torch.tensor([50, 50, 50, 128], dtype=torch.uint8)[:, None, None].expand(4, 8, 8)
    found = pixels(tensor if scale == 1 else tensor / 255)
    torch.testing.assert_close(found * 255, torch.full((1, 3, 8, 8), 255 - 205 * 128 / 255), atol=1, rtol=0)


def test_channels_first_and_gray_stacks_are_not_confused():
    for ambiguous in (np.zeros((3, 64, 64), np.uint8), np.zeros((64, 64, 31), np.uint8)):
        with pytest.raises(InputError, match="shape"):
            open_source(ambiguous)


# -- buffers that are used again


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["tensor", "float tensor", "array", "deep array", "PIL", "stack"])
def test_a_buffer_used_again_changes_no_picture_taken_before(kind, workers):
    def camera():
        array = np.zeros((8, 8, 3), np.uint8 if kind != "deep array" else np.uint16)
        image = Image.new("RGB", (8, 8))
        for value in range(10, 70, 10):
            array[:] = value * (257 if kind == "deep array" else 1)
            image.paste((value,) * 3, (0, 0, 8, 8))
            tensor = torch.from_numpy(array.transpose(2, 0, 1)) if kind in ("tensor", "float tensor") else None
            if kind == "float tensor":
                buffer[:] = tensor / 255
            yield {"tensor": tensor, "float tensor": buffer, "PIL": image, "stack": array[None]}.get(kind, array)

    buffer = torch.zeros(3, 8, 8)
    source = open_source(camera(), resize=8, crop=8, batch_size=4, num_workers=workers)
    seen, shown = [], []
    for batch in source:
        seen += [round(255 * value) for value in batch.pixels[:, 0, 0, 0].tolist()]
        shown += batch.originals
    assert seen == list(range(10, 70, 10))
    assert [np.asarray(original())[0, 0, 0] for original in shown] == seen


def test_an_overlay_shows_what_was_scored_whatever_became_of_the_array():
    model = tiny_spade().fit([picture(i) for i in range(3)])
    for given in (np.array(picture(9)), torch.from_numpy(np.array(picture(9))).permute(2, 0, 1) / 255, picture(9)):
        result = model.score(given)
        before = np.asarray(result.overlay(0)).copy()
        given.paste((0, 0, 0), (0, 0, 64, 64)) if isinstance(given, Image.Image) else given.__setitem__(slice(None), 0)
        assert np.array_equal(np.asarray(result.overlay(0)), before)


@pytest.mark.parametrize("code", [">u2", "<u2", ">f4", ">f8", "f2"])
def test_arrays_of_either_byte_order_are_read_alike(code):
    values = np.asarray(picture(3)) / 255
    given = np.rint(values * 65535).astype(code) if "u" in code else values.astype(code)
    (found,) = open_source(given, resize=None, crop=None)
    assert np.abs(found.pixels[0].permute(1, 2, 0).numpy() - values).max() < 1e-3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (b"\x89PNG", "got bytes; open encoded bytes with PIL.Image.open"),
        ([b"\x89PNG"], "got bytes; open encoded bytes with PIL.Image.open"),
        (io.BytesIO(b"\x89PNG"), "got BytesIO; open a file object with PIL.Image.open"),
        ([io.BytesIO(b"\x89PNG")], "got BytesIO; open a file object with PIL.Image.open"),
        ("https://example.org/a.png", "no such file or folder: https://example.org/a.png; URLs are not read"),
        (np.ma.masked_array(np.zeros((8, 8, 3)), mask=np.eye(8)[..., None].repeat(3, 2)), "must not have masked pixels"),
        ([np.ma.masked_array(np.zeros((8, 8, 3)), mask=np.eye(8)[..., None].repeat(3, 2))], "must not have masked pixels"),
        (torch.zeros(3, 8, 8).to_sparse(), "must be a dense tensor, got sparse_coo"),
    ],
)
def test_a_refusal_says_how_to_give_it(given, says):
    with pytest.raises(FastspadeError, match=re.escape(says)):
        open_source(given)


def test_a_masked_array_without_masked_pixels_is_read():
    (batch,) = open_source(np.ma.masked_array(np.asarray(picture(1))), resize=None, crop=None)
    assert batch.pixels.shape == (1, 3, 64, 64)
