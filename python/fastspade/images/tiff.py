"""TIFF files: which of them Pillow reads right, and all others by tifffile (extra `tiff`), or refused by name.

Pillow takes the samples of a TIFF as they lie there: those of white-is-zero pictures, of fewer bits than they are stored in, signed
ones, or in planes of 16 bits come out as other numbers, without an error. What a tag means is from the TIFF 6.0 specification.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin

from fastspade.errors import ImageReadError
from fastspade.images.deep import both_bytes
from fastspade.images.orientation import turned

Header = Mapping[int, Any]  # tag -> value
_SUBFILE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
_ORIENTATION, _SAMPLES = 274, 277
_BYTE_COUNTS, _PLANAR, _COLORMAP, _INK_SET, _EXTRA, _FORMAT, _COEFFICIENTS, _REFERENCE = 279, 284, 320, 332, 338, 339, 529, 532
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_GRAY_KINDS, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB = (0, 1), 2, 3, 5, 6, 8
_LUMA = (0.299, 0.587, 0.114)
_MOST_SAMPLES = 8
_MOST_TAGS = 65535


def full_page(image: TiffImagePlugin.TiffImageFile) -> None:
    """Goes on to the first picture that is no thumbnail of another."""
    number = 0
    while image.tag_v2.get(_SUBFILE, 0) & 1:
        number += 1
        try:
            image.seek(number)
        except EOFError:
            image.seek(0)
            return


def pictures(file: BinaryIO) -> int:
    """How many a file holds, smaller copies and masks of others not counted; 1 where it is damaged behind the first."""
    count = 0
    try:
        order = "<" if file.read(2) == b"II" else ">"
        big = struct.unpack(order + "H", file.read(2))[0] == 43
        (at,) = struct.unpack(order + ("4xQ" if big else "I"), file.read(12 if big else 4))
        seen = set()
        while at and at not in seen:
            seen.add(at)
            file.seek(at)
            (tags,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
            data = file.read((20 if big else 12) * min(tags, _MOST_TAGS))
            (at,) = struct.unpack(order + ("Q" if big else "I"), file.read(8 if big else 4))
            known = dict(struct.iter_unpack(order + ("H10xI4x" if big else "H6xI"), data))
            count += not known.get(_SUBFILE, 0) & 5
    except (struct.error, OSError, OverflowError, MemoryError):
        pass
    return max(1, count)


def read_right(tags: Header, little_endian: bool) -> bool:
    """Whether Pillow reads such a file right."""
    photo, samples = tags.get(_PHOTOMETRIC), tags.get(_SAMPLES, 1)
    bits, formats = set(_tuple(tags.get(_BITS, 1))), set(_tuple(tags.get(_FORMAT, _UNSIGNED)))
    raw = tags.get(_COMPRESSION, 1) == 1
    if tags.get(_COMPRESSION) == 6:  # old JPEG, always YCbCr
        return bits == {8}
    if tags.get(_FILL_ORDER, 1) != 1 and (raw or bits == {16}) and bits != {1}:
        return False
    if photo == _CMYK and tags.get(_INK_SET, 1) != 1:
        return False
    if photo == _YCBCR and not _plain_ycbcr(tags, raw):
        return False
    if (
        len(bits) != 1
        or len(formats) != 1
        or tags.get(_PLANAR, 1) == 2
        and samples > 1
        and (bits != {8} or photo not in (_RGB, _CMYK))
    ):
        return False
    (size,), (form,) = bits, formats
    if form != _UNSIGNED:
        # libtiff gives compressed ones in this machine's byte order, which Pillow takes for the file's.
        same_order = raw or little_endian == (sys.byteorder == "little")
        return samples == 1 and photo == 1 and same_order and (form, size) in ((_SIGNED, 16), (_SIGNED, 32), (_FLOAT, 32))
    if size == 16:
        if photo == _RGB:
            return samples in (3, 4) and tags.get(_EXTRA) in (None, (0,), (2,), 0, 2)
        return samples == 1 and photo == 1 or photo == _CMYK
    if size in (1, 2, 4):
        return samples == 1 and photo in (*_GRAY_KINDS, _PALETTE)
    return size == 8 and photo in (*_GRAY_KINDS, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB)


def _plain_ycbcr(tags: Header, raw: bool) -> bool:
    """Colours over the full range with the usual weights; where it is not compressed, not subsampled either."""
    if any(abs(float(a) - b) > 1e-3 for a, b in zip(tags.get(_COEFFICIENTS, _LUMA), _LUMA)):
        return False
    if raw:
        whole = tags.get(_REFERENCE) in (None, (0, 255, 128, 255, 128, 255))
        return whole and sum(_tuple(tags.get(_BYTE_COUNTS, 0))) == tags.get(_WIDTH, 0) * tags.get(_LENGTH, 0) * 3
    return True


def decoded(image: TiffImagePlugin.TiffImageFile, file: BinaryIO) -> Image.Image | np.ndarray:
    """The picture of a file that Pillow reads right; with (H, W, 3) or (H, W, 4) uint16 where its colours have 16 bits."""
    if image.mode in ("RGB", "RGBA") and max(_tuple(image.tag_v2.get(_BITS, 1))) == 16:
        file.seek(0)
        again = TiffImagePlugin.TiffImageFile(file, "")
        again.seek(image.tell())
        return both_bytes(image, again)
    image.load()
    entries = image.tag_v2.get(_COLORMAP)
    if image.mode in ("P", "PA") and entries and max(entries) < 256:  # the specification wants 16 bits; some writers give 8
        image.palette = ImagePalette.raw("RGB;L", bytes(entries))
        image.load()
    return image


def read_size(file: BinaryIO, name: str, check_size: Callable[[int, int], None]) -> tuple[int, int]:
    """(height, width), upright, of a file that Pillow has no mode for. check_size, errors: as of `read_samples`."""
    with _tifffile(name).TiffFile(_rewound(file), name=name) as opened:
        one = opened.pages[0]
        check_size(one.imagewidth, one.imagelength)
        orientation = one.tags.valueof(_ORIENTATION, 1)
        return (one.imagewidth, one.imagelength) if orientation in (5, 6, 7, 8) else (one.imagelength, one.imagewidth)


def _tifffile(name: str) -> Any:
    try:
        import tifffile
    except ImportError:
        raise ImageReadError(
            f"cannot read image {name}: Pillow does not read this kind of TIFF right, tifffile may; pip install 'fastspade[tiff]'",
            name,
        ) from None
    return tifffile


def _rewound(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file


def read_samples(file: BinaryIO, name: str, page: int, check_size: Callable[[int, int], None]) -> np.ndarray:
    """A picture of another kind, upright: (H, W), (H, W, 3) or, with alpha, (H, W, 4), uint8 where it has 8 bits,
    else float32, integers scaled by their range.

    check_size(width, height) is called before anything is decoded. Raises ImageReadError.
    """
    with _tifffile(name).TiffFile(_rewound(file), name=name) as opened:
        one = opened.pages[page]
        check_size(one.imagewidth, one.imagelength)
        tags = {tag.code: tag.value for tag in one.tags}
        photo = int(one.photometric) if _PHOTOMETRIC in tags else None
        samples, extra = one.samplesperpixel, tuple(map(int, one.extrasamples))
        colours = 1 if photo in _GRAY_KINDS else 3 if photo == _RGB else 0
        alpha = samples > colours and (extra[:1] in ((1,), (2,)) or (not extra and photo == _RGB and samples == 4))
        ignored = samples - colours - alpha
        if not colours or one.imagedepth != 1 or ignored > 1 or samples > _MOST_SAMPLES or (ignored and not extra):
            raise ImageReadError(
                f"cannot read image {name}: a TIFF of photometric interpretation {photo}, {samples} samples per pixel of "
                f"{one.bitspersample} bits is of no kind read here",
                name,
            )
        values = one.asarray(squeeze=False, maxworkers=1)[:, 0]
    values = np.concatenate([values[..., i] for i in range(values.shape[-1])]) if len(values) == 1 else values[..., 0]
    scaled = _scaled(values[: colours + alpha], one.bitspersample)
    if photo == 0:
        scaled[0] = 1 - scaled[0]
    if alpha and extra[:1] == (1,):  # colours are multiplied by it
        scaled[:colours] = np.divide(
            scaled[:colours], scaled[colours], out=np.zeros_like(scaled[:colours]), where=scaled[colours] > 0
        )
    if colours == 1 and alpha:
        scaled = scaled[[0, 0, 0, 1]]
    found = scaled[0] if len(scaled) == 1 else scaled.transpose(1, 2, 0)
    if values.dtype == np.uint8 and one.bitspersample == 8:
        found = np.rint(found * 255).astype(np.uint8)
    return np.ascontiguousarray(turned(found, tags.get(_ORIENTATION, 1)))


def _scaled(values: np.ndarray, bits: int) -> np.ndarray:
    """float32: integers of at most 16 bits by their range, of more, or signed, as 16-bit ones, which they must fit in."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype.kind == "b":
        return values.astype(np.float32)
    if values.dtype.kind == "u" and bits <= 16:
        return values.astype(np.float32) / np.float32(2**bits - 1)
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise ValueError(f"integer pixels must lie in 0..65535, got {low}..{high}; rescale the image to 16 bits")
    return values.astype(np.float32) / (255 if bits == 8 else 65535)


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
