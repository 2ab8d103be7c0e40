"""What the numbers in a file mean: every kind that Pillow hands over raw is read right, or refused by name."""

from __future__ import annotations

import io
import struct
import sys

import made_files
import numpy as np
import pytest
import torch
from PIL import Image

from fastspade.errors import ImageReadError
from fastspade.images import as_rgb, open_source
from fastspade.images.decode import read_file

HEIGHT, WIDTH = 9, 14
Y, X = np.mgrid[:HEIGHT, :WIDTH]
GRAY = ((X * 17 + Y * 5) % 256).astype(np.uint8)
RGB = np.dstack([GRAY, GRAY[::-1], 255 - GRAY])
ALPHA = ((X * 18) % 256).astype(np.uint8)
REVERSED = np.array([int(f"{i:08b}"[::-1], 2) for i in range(256)], np.uint8)
ORDERS = pytest.mark.parametrize("order", ["<", ">"])


def read(data: bytes, folder, name: str = "a.tif") -> np.ndarray:
    """(H, W, 3) in 0..255, not rounded where the file is deep."""
    (folder / name).write_bytes(data)
    found = read_file(folder / name)
    return found.permute(1, 2, 0).numpy() * 255 if isinstance(found, torch.Tensor) else np.asarray(found).astype(float)


def same(found: np.ndarray, wanted: np.ndarray, off: float = 1e-3) -> None:
    wanted = wanted if wanted.ndim == 3 else np.repeat(wanted[..., None], 3, axis=2)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= off


def deep(pixels: np.ndarray, order: str = "<") -> np.ndarray:
    """8 bits -> the same in 16."""
    return (pixels.astype(np.uint16) * 257).astype(order + "u2")


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def gray_tiff(values: np.ndarray, order: str = "<", **tags) -> bytes:
    tags = {"bits": values.dtype.itemsize * 8, "photometric": 1} | tags
    return made_files.tiff(values.astype(values.dtype.newbyteorder(order)).tobytes(), HEIGHT, WIDTH, order, **tags)


def planes(pixels: np.ndarray, order: str, **tags) -> bytes:
    bits = (pixels.dtype.itemsize * 8,) * pixels.shape[2]
    tags = {"bits": bits, "samples": len(bits), "planar": 2} | tags
    data = [pixels[..., i].astype(pixels.dtype.newbyteorder(order)).tobytes() for i in range(len(bits))]
    return made_files.tiff(data, HEIGHT, WIDTH, order, **tags)


# -- TIFF


@ORDERS
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_separate_planes(tmp_path, kind, order):
    pytest.importorskip("tifffile")
    pixels = RGB if kind == np.uint8 else deep(RGB)
    same(read(planes(pixels, order, photometric=2), tmp_path), RGB)
    with_alpha = np.dstack([RGB, ALPHA]) if kind == np.uint8 else deep(np.dstack([RGB, ALPHA]))
    same(read(planes(with_alpha, order, photometric=2, extra=2), tmp_path), on_white(RGB, ALPHA), off=1.01)


@ORDERS
def test_white_is_zero(tmp_path, order):
    pytest.importorskip("tifffile")
    for values in (GRAY, deep(GRAY), (GRAY / 255).astype(np.float32)):
        made = gray_tiff(values, order, photometric=0, format=3 if values.dtype.kind == "f" else 1)
        same(read(made, tmp_path), 255 - GRAY.astype(float))
    for bits in (1, 2, 4):
        values = GRAY >> (8 - bits)
        made = made_files.tiff(made_files.packed(values, bits), HEIGHT, WIDTH, order, bits=bits, photometric=0)
        same(read(made, tmp_path), 255 - values * (255 / (2**bits - 1)))


@ORDERS
@pytest.mark.parametrize("bits", range(1, 17))
def test_every_number_of_bits(tmp_path, bits, order):
    if bits not in (1, 2, 4, 8, 16):
        pytest.importorskip("tifffile")
        pytest.importorskip("imagecodecs")
    values = deep(GRAY).astype(np.int64) >> (16 - bits)
    data = values.astype(order + "u2").tobytes() if bits == 16 else made_files.packed(values, bits)
    same(read(made_files.tiff(data, HEIGHT, WIDTH, order, bits=bits, photometric=1), tmp_path), values * (255 / (2**bits - 1)))


@ORDERS
@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.uint32, np.int32])
def test_integers_are_taken_as_those_of_16_bits_whatever_they_are_stored_in(tmp_path, kind, order):
    if kind == np.uint32:
        pytest.importorskip("tifffile")
    values = GRAY.astype(kind) * 128
    form = 2 if np.dtype(kind).kind == "i" else 1
    same(read(gray_tiff(values, order, format=form), tmp_path), values / 257)
    if kind != np.uint16:
        values[2, 3] = -1 if form == 2 else 65536
        with pytest.raises(ImageReadError, match=r"a\.tif.*0\.\.65535"):
            read(gray_tiff(values, order, format=form), tmp_path)


@ORDERS
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats(tmp_path, kind, order):
    if kind != np.float32:
        pytest.importorskip("tifffile")
    same(read(gray_tiff((GRAY / 255).astype(kind), order, format=3), tmp_path), GRAY, off=0.13 if kind == np.float16 else 1e-3)
    with pytest.raises(ImageReadError, match=r"a\.tif.*\[0, 1\]"):
        read(gray_tiff(GRAY.astype(kind), order, format=3), tmp_path)


@pytest.mark.skipif(sys.byteorder != "little", reason="libtiff's byte order is this machine's")
@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_compressed_numbers_of_the_other_byte_order(tmp_path, kind):
    tifffile = pytest.importorskip("tifffile")
    values = GRAY.astype(np.int16) * 128 if kind == np.int16 else (GRAY / 255).astype(kind)
    tifffile.imwrite(tmp_path / "b.tif", values, byteorder=">", compression="zlib")
    same(read((tmp_path / "b.tif").read_bytes(), tmp_path), values / 257 if kind == np.int16 else GRAY)


@ORDERS
def test_signed_bytes(tmp_path, order):
    pytest.importorskip("tifffile")
    same(read(gray_tiff((GRAY >> 1).astype(np.int8), order, format=2), tmp_path), GRAY >> 1)
    with pytest.raises(ImageReadError, match=r"a\.tif.*got -"):
        read(gray_tiff(GRAY.astype(np.int8), order, format=2), tmp_path)


@ORDERS
def test_bits_in_reverse(tmp_path, order):
    pytest.importorskip("tifffile")
    for photometric, wanted in ((1, GRAY), (0, 255 - GRAY)):
        same(read(gray_tiff(REVERSED[GRAY], order, photometric=photometric, fill_order=2), tmp_path), wanted)
    swapped = REVERSED[deep(GRAY, order).view(np.uint8)].tobytes()
    same(read(made_files.tiff(swapped, HEIGHT, WIDTH, order, bits=16, photometric=1, fill_order=2), tmp_path), GRAY)


@ORDERS
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["gray", "deep gray", "deep colour", "planes"])
def test_orientation(tmp_path, kind, orientation, order):
    pixels = {"gray": GRAY, "deep gray": deep(GRAY), "deep colour": deep(RGB), "planes": deep(RGB)}[kind]
    tags = {"bits": (pixels.dtype.itemsize * 8,) * (1 if pixels.ndim == 2 else 3), "orientation": orientation}
    if kind == "planes":
        pytest.importorskip("tifffile")
        made = planes(pixels, order, photometric=2, **tags)
    else:
        tags |= {"photometric": 1 if pixels.ndim == 2 else 2, "samples": len(tags["bits"])}
        made = made_files.tiff(pixels.astype(pixels.dtype.newbyteorder(order)).tobytes(), HEIGHT, WIDTH, order, **tags)
    shown = GRAY if pixels.ndim == 2 else RGB
    upright = {1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1], 5: shown.swapaxes(0, 1), 6: np.rot90(shown, -1),
               7: shown[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(shown)}[orientation]  # fmt: skip
    same(read(made, tmp_path), upright)
    with Image.open(tmp_path / "a.tif") as image:  # opened by the caller, but not decoded yet
        (batch,) = open_source(image, resize=None, crop=None)
    same(batch.pixels[0].permute(1, 2, 0).numpy() * 255, upright)


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ({"photometric": 2, "extra": 2}, on_white(RGB, ALPHA)),
        ({"photometric": 2, "extra": 0}, RGB),
        ({"photometric": 2, "extra": 1}, "multiplied"),
        ({"photometric": 1, "extra": 2}, on_white(np.dstack([GRAY] * 3), ALPHA)),
        ({"photometric": 1, "extra": 0}, GRAY),
    ],
)
@ORDERS
@pytest.mark.parametrize("bits", [8, 16])
def test_extra_samples(tmp_path, form, wanted, bits, order):
    pytest.importorskip("tifffile")
    colours = RGB if form["photometric"] == 2 else GRAY[..., None]
    if isinstance(wanted, str):
        colours, wanted = np.rint(RGB * (ALPHA[..., None] / 255)).astype(np.uint8), on_white(RGB, ALPHA)
    pixels = np.dstack([colours, ALPHA])
    data = (pixels if bits == 8 else deep(pixels, order)).tobytes()
    made = made_files.tiff(data, HEIGHT, WIDTH, order, bits=(bits,) * pixels.shape[2], samples=pixels.shape[2], **form)
    same(read(made, tmp_path), wanted, off=2.1)


def test_palettes_of_8_and_of_16_bits(tmp_path):
    ramp = tuple(range(256))
    table = (*ramp, *ramp[::-1], *(value // 2 for value in ramp))
    wanted = np.dstack([GRAY, 255 - GRAY, GRAY // 2])
    for scale in (1, 257):
        same(read(gray_tiff(GRAY, photometric=3, colormap=tuple(value * scale for value in table)), tmp_path), wanted)


@pytest.mark.parametrize(
    ("says", "tags", "samples"),
    [
        ("photometric interpretation None", {"photometric": ()}, 1),
        ("interpretation 4", {"photometric": 4}, 1),  # a transparency mask
        ("interpretation 32803", {"photometric": 32803}, 1),  # a sensor's colour filters
        ("interpretation 9", {"photometric": 9}, 3),  # CIELab of other signs
        ("interpretation 5", {"photometric": 5, "ink_set": 2}, 4),  # other inks than CMYK
        ("interpretation 6", {"photometric": 6, "subsampling": (2, 2)}, 3),
        ("interpretation 1", {"photometric": 1, "extra": (0, 0, 0)}, 4),
    ],
)
def test_what_no_reader_knows_is_refused(tmp_path, says, tags, samples):
    pytest.importorskip("tifffile")
    short = 1 if samples != 3 or tags["photometric"] != 6 else 2  # subsampled colours take less room
    data = bytes(HEIGHT * WIDTH * samples // short)
    tags = {name: value for name, value in tags.items() if value != ()}
    made = made_files.tiff(data, HEIGHT, WIDTH, bits=(8,) * samples, samples=samples, **tags)
    with pytest.raises(ImageReadError, match=rf"a\.tif.*{says}"):
        read(made, tmp_path)


def test_without_tifffile_what_pillow_reads_wrong_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImageReadError, match=r"a\.tif.*fastspade\[tiff\]"):
        read(planes(deep(RGB), "<", photometric=2), tmp_path)
    same(read(gray_tiff(deep(GRAY)), tmp_path), GRAY)
    same(read(planes(RGB, "<", photometric=2), tmp_path), RGB)


def test_a_picture_opened_by_the_caller_is_read_as_its_file(tmp_path):
    pytest.importorskip("tifffile")
    (tmp_path / "a.tif").write_bytes(planes(deep(RGB), "<", photometric=2))
    with Image.open(tmp_path / "a.tif") as image:
        (batch,) = open_source(image, resize=None, crop=None)
        same(batch.pixels[0].permute(1, 2, 0).numpy() * 255, RGB)
    with Image.open(tmp_path / "a.tif") as image:
        image.load()  # what came out cannot be mended
        with pytest.raises(ImageReadError, match=r"a\.tif.*give its path"):
            list(open_source(image))


def test_a_thumbnail_is_not_taken_for_the_picture(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(GRAY[::3, ::3], subfiletype=1)
        writer.write(GRAY)
    same(read((tmp_path / "b.tif").read_bytes(), tmp_path), GRAY)


def test_the_header_limits_what_tifffile_reads(tmp_path):
    pytest.importorskip("tifffile")
    (tmp_path / "a.tif").write_bytes(planes(deep(RGB), "<", photometric=2))
    with pytest.raises(ImageReadError, match=r"a\.tif: its header says 14 x 9 = 126 pixels, more than max_pixels \(125\)"):
        read_file(tmp_path / "a.tif", 125)


# -- colours of 16 bits


def twelve_bits(pixels: np.ndarray) -> np.ndarray:
    """A camera's 12 bits in 16: an eighth bit more or less is many of its steps."""
    return pixels.astype(np.uint16) * 16 + 11


@pytest.mark.parametrize("alpha", [False, True])
def test_16_bit_colours_of_a_png_keep_their_depth(tmp_path, alpha):
    values = twelve_bits(RGB)
    stored = np.dstack([values, np.full(GRAY.shape, 65535, np.uint16)]) if alpha else values
    same(
        read(made_files.png(stored.astype(">u2").tobytes(), HEIGHT, WIDTH, 16, 6 if alpha else 2), tmp_path, "a.png"),
        values / 257,
    )


def test_16_bit_gray_with_alpha_of_a_png(tmp_path):
    stored = np.dstack([twelve_bits(GRAY), deep(ALPHA)]).astype(">u2")
    found = read(made_files.png(stored.tobytes(), HEIGHT, WIDTH, 16, 4), tmp_path, "a.png")
    same(found, on_white(np.dstack([twelve_bits(GRAY) / 257] * 3), ALPHA))


@ORDERS
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_16_bit_colours_of_a_tiff_keep_their_depth(tmp_path, order, compression):
    values = twelve_bits(RGB)
    made = made_files.tiff(values.astype(order + "u2").tobytes(), HEIGHT, WIDTH, order, bits=(16,) * 3, photometric=2, samples=3)
    if compression != "raw":
        tifffile = pytest.importorskip("tifffile")
        pytest.importorskip("imagecodecs")
        tifffile.imwrite(tmp_path / "b.tif", values, photometric="rgb", byteorder=order, compression="lzw", predictor=2)
        made = (tmp_path / "b.tif").read_bytes()
    same(read(made, tmp_path), values / 257)


# -- other formats


@pytest.mark.parametrize(("bits", "clear"), [(1, 1), (2, 1), (4, 5), (8, 100), (16, 25700)])
def test_the_transparent_gray_of_a_png_is_meant_at_its_depth(tmp_path, bits, clear):
    values = (deep(GRAY).astype(np.int64) >> (16 - bits)) if bits < 16 else deep(GRAY).astype(np.int64)
    values[3, 4] = clear
    values[5, 6] = clear + 1 if bits == 16 else values[5, 6]  # next to it is not it
    data = made_files.packed(values, bits) if bits < 16 else values.astype(">u2").tobytes()
    found = read(made_files.png(data, HEIGHT, WIDTH, bits, 0, tRNS=struct.pack(">H", clear)), tmp_path, "a.png")
    same(found, np.where(values == clear, 255, values * (255 / (2**bits - 1))), off=0.5)


def test_the_transparent_colour_of_a_deep_png(tmp_path):
    values = deep(RGB)
    values[0, 1] = values[0, 0] + np.array([0, 0, 1], np.uint16)
    found = read(
        made_files.png(values.astype(">u2").tobytes(), HEIGHT, WIDTH, 16, 2, tRNS=values[0, 0].astype(">u2").tobytes()),
        tmp_path,
        "a.png",
    )
    wanted = values / 257
    wanted[0, 0] = 255
    same(found, wanted)


@pytest.mark.parametrize("most", [1, 15, 255, 1000, 4095, 65535])
def test_the_highest_value_of_a_pgm_is_white(tmp_path, most):
    values = GRAY.astype(np.int64) * most // 255
    body = values.astype(">u2" if most > 255 else np.uint8).tobytes()
    same(read(b"P5 %d %d %d\n" % (WIDTH, HEIGHT, most) + body, tmp_path, "a.pgm"), values * (255 / most), off=0.51)


def test_a_pfm_with_a_scale_is_refused(tmp_path):
    values = (GRAY[::-1] / 255).astype("<f4").tobytes()
    same(read(b"Pf\n%d %d\n-1.0\n" % (WIDTH, HEIGHT) + values, tmp_path, "a.pnm"), GRAY)
    with pytest.raises(ImageReadError, match=r"a\.pnm.*scaled by 2"):
        read(b"Pf\n%d %d\n-2.0\n" % (WIDTH, HEIGHT) + values, tmp_path, "a.pnm")


@pytest.mark.parametrize("bits", [1, 4, 8, 12, 16])
@pytest.mark.parametrize("form", ["jp2", "j2k"])
def test_the_bits_of_a_jpeg_2000(tmp_path, bits, form):
    imagecodecs = pytest.importorskip("imagecodecs")
    values = (deep(GRAY) >> (16 - bits)).astype(np.uint8 if bits <= 8 else np.uint16)
    options = {"level": 0, "reversible": True, "bitspersample": bits, "codecformat": form}
    same(read(imagecodecs.jpeg2k_encode(values, **options), tmp_path, f"a.{form}"), values * (255 / (2**bits - 1)), off=0.51)
    colours = np.dstack([values, values[::-1], values])
    made = imagecodecs.jpeg2k_encode(colours, **options)
    if bits <= 8:
        same(read(made, tmp_path, f"a.{form}"), colours * (255 / (2**bits - 1)), off=0.51)
    else:
        with pytest.raises(ImageReadError, match=rf"a\.{form}.*3 components of {bits} bits"):
            read(made, tmp_path, f"a.{form}")


def test_cmyk_with_and_without_adobes_mark(tmp_path):
    inks = np.dstack([255 - GRAY] * 3 + [GRAY * 0])
    marked, plain = io.BytesIO(), io.BytesIO()
    Image.fromarray(inks, "CMYK").save(marked, "JPEG", quality=100, subsampling=0)
    same(read(marked.getvalue(), tmp_path, "a.jpg"), GRAY, off=3)
    Image.fromarray(255 - inks, "CMYK").save(plain, "JPEG", quality=100, subsampling=0)
    data = plain.getvalue()
    mark = data.index(b"\xff\xee")
    data = data[:mark] + data[mark + 2 + int.from_bytes(data[mark + 2 : mark + 4], "big") :]
    same(read(data, tmp_path, "a.jpg"), GRAY, off=3)


def test_a_tga_whose_fourth_byte_means_nothing(tmp_path):
    same(read(made_files.tga(np.dstack([RGB, GRAY * 0]), 0), tmp_path, "a.tga"), RGB[..., ::-1])
    same(read(made_files.tga(np.dstack([RGB, ALPHA]), 8), tmp_path, "a.tga"), on_white(RGB[..., ::-1], ALPHA), off=1.01)


def test_a_picture_of_which_nothing_is_seen_is_refused(tmp_path):
    Image.fromarray(np.dstack([RGB, GRAY * 0])).save(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match=r"a\.png.*every pixel is transparent"):
        as_rgb(tmp_path / "a.png")
