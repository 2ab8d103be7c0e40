"""Masks of every mode and format mark the pixels that they show as marked, or are refused by name."""

from __future__ import annotations

import made_files
import numpy as np
import pytest
from PIL import Image

from fastspade.errors import ImageReadError
from fastspade.evaluate.dataset import load_mask

WANTED = np.zeros((12, 17), dtype=bool)
WANTED[2:6, 3:9] = True
GRAY = Image.fromarray((WANTED * 255).astype(np.uint8))


def saved(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


def palette(colours: list[int], **options) -> Image.Image:
    """0 where nothing is marked, 1 where something is."""
    image = Image.fromarray(WANTED.astype(np.uint8), "P")
    image.putpalette(colours)
    return image


@pytest.mark.parametrize("marked_is", [0, 1])
def test_a_palette_is_read_by_its_colours(tmp_path, marked_is):
    image = Image.fromarray((WANTED == marked_is).astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0] if not marked_is else [0, 0, 0, 255, 0, 0])
    image = image if marked_is else Image.fromarray((~WANTED).astype(np.uint8), "P")
    if not marked_is:
        image.putpalette([255, 255, 255, 0, 0, 0])
    for name in ("a.png", "a.gif", "a.bmp", "a.tif"):
        assert np.array_equal(load_mask(saved(image, tmp_path / name)), WANTED), name


def test_a_palette_of_an_editor(tmp_path):
    assert np.array_equal(load_mask(saved(GRAY.convert("RGB").quantize(2), tmp_path / "a.png")), WANTED)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32, np.uint8])
@pytest.mark.parametrize("value", [1, 3, 200])
def test_any_number_but_0_is_marked(tmp_path, kind, value):
    image = Image.fromarray(WANTED.astype(kind) * kind(value))
    assert np.array_equal(load_mask(saved(image, tmp_path / "a.tif")), WANTED)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_white_is_zero_in_a_tiff(tmp_path, bits, order):
    pytest.importorskip("tifffile")
    values = (~WANTED).astype(np.uint16) * (2**bits - 1)
    data = values.astype(order + "u2").tobytes() if bits == 16 else made_files.packed(values, bits)
    (tmp_path / "a.tif").write_bytes(made_files.tiff(data, 12, 17, order, bits=bits, photometric=0))
    assert np.array_equal(load_mask(tmp_path / "a.tif"), WANTED)


def test_planes_and_alpha_of_16_bits(tmp_path):
    pytest.importorskip("tifffile")
    values = WANTED.astype("<u2") * 9
    (tmp_path / "a.tif").write_bytes(
        made_files.tiff([(values * i).tobytes() for i in range(3)], 12, 17, bits=(16,) * 3, samples=3, planar=2, photometric=2)
    )
    assert np.array_equal(load_mask(tmp_path / "a.tif"), WANTED)
    stored = np.dstack([values, values, values, np.full(values.shape, 65535)]).astype(">u2")
    (tmp_path / "a.png").write_bytes(made_files.png(stored.tobytes(), 12, 17, 16, 6))
    assert np.array_equal(load_mask(tmp_path / "a.png"), WANTED)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"])
def test_masks_of_every_mode(tmp_path, mode):
    if mode == "LAB":
        image = Image.fromarray(
            np.dstack([WANTED * 255, np.full_like(WANTED, 128, int), np.full_like(WANTED, 128, int)]).astype(np.uint8), "LAB"
        )
    else:
        image = GRAY.convert(mode) if mode != "YCbCr" else GRAY.convert("RGB").convert(mode)
        image = GRAY.convert("RGB").convert(mode) if mode == "CMYK" else image
    assert np.array_equal(load_mask(saved(image, tmp_path / "a.tif")), WANTED)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.tga", "a.pgm", "a.webp"])
def test_masks_of_every_format(tmp_path, name):
    assert np.array_equal(load_mask(saved(GRAY, tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))), WANTED)


def test_a_mask_is_turned_as_its_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(load_mask(saved(GRAY, tmp_path / "a.png", exif=exif)), np.rot90(WANTED, -1))


def with_alpha(colours: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([colours, colours, colours, alpha]).astype(np.uint8))


@pytest.mark.parametrize(
    "image",
    [
        with_alpha(WANTED * 255, np.full(WANTED.shape, 255)),
        with_alpha(WANTED * 255, WANTED * 255),
        with_alpha(np.full(WANTED.shape, 255), WANTED * 255),  # white all over, seen where it is marked
        with_alpha(np.full(WANTED.shape, 90), WANTED * 100),
    ],
)
def test_what_is_transparent_is_not_marked(tmp_path, image):
    assert np.array_equal(load_mask(saved(image, tmp_path / "a.png")), WANTED)
    assert np.array_equal(load_mask(saved(image.convert("LA"), tmp_path / "a.png")), WANTED)


def test_a_transparent_number_of_a_palette_is_not_marked(tmp_path):
    image = palette([9, 9, 9, 200, 0, 0])
    assert np.array_equal(load_mask(saved(image, tmp_path / "a.png", transparency=0)), WANTED)


@pytest.mark.parametrize(
    ("name", "image", "options", "says"),
    [
        ("a.png", palette([7, 7, 7, 7, 7, 7]), {}, "one colour"),
        ("a.png", with_alpha(WANTED * 0, WANTED * 255), {}, "black or transparent"),
        ("a.png", with_alpha(WANTED * 255, WANTED * 0), {}, "black or transparent"),
        ("a.tif", Image.fromarray(np.where(WANTED, np.nan, 0).astype(np.float32)), {}, "NaN"),
        ("a.tif", GRAY, {"save_all": True, "append_images": [GRAY]}, "2 pictures"),
        ("a.gif", GRAY, {"save_all": True, "append_images": [Image.new("L", GRAY.size, 9)]}, "2 pictures"),
        ("a.tif", GRAY, {"compression": "jpeg"}, "compressed as JPEG"),
        ("a.png", GRAY, {"format": "JPEG"}, "a JPEG, whose"),
        ("a.png", GRAY, {"format": "JPEG2000"}, "a JPEG 2000, whose"),
        ("a.webp", GRAY, {"quality": 50}, "a lossy WebP, whose"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path, name, image, options, says):
    with pytest.raises(ImageReadError, match=rf"{name}.*{says}"):
        load_mask(saved(image, tmp_path / name, **options))
