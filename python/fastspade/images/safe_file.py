"""Opening an image file of unknown origin: which formats are tried, and how large a picture may be.

PIL.Image.open tries every format that Pillow knows whatever the file's name, among them some that start other programs
(EPS runs Ghostscript), and its size limit is one setting for the whole process, with a warning at half of it. Here only
the formats of SUFFIXES are tried, and the limit is an argument, checked against the header before pixels are decoded.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from fastspade.errors import ImageReadError, MissingFileError
from fastspade.images import jpeg2000, png, tiff
from fastspade.images.further import tell_further
from fastspade.images.orientation import upright_size

SUFFIXES = frozenset(".bmp .dib .gif .j2k .jp2 .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split())
# Pillow's own limit for its error (twice Image.MAX_IMAGE_PIXELS): 13,377 squared. A decoded pixel takes 4 bytes, so that
# a picture of this size takes 0.7 GB while it is decoded, and three times that where it is transparent.
DEFAULT_MAX_PIXELS = 178_956_970

_FORMATS = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        BmpImagePlugin.BmpImageFile,
        BmpImagePlugin.DibImageFile,
        TiffImagePlugin.TiffImageFile,
        GifImagePlugin.GifImageFile,
        WebPImagePlugin.WebPImageFile,
        PpmImagePlugin.PpmImageFile,
        Jpeg2KImagePlugin.Jpeg2KImageFile,
    )
)


@contextmanager
def opened_image(path: str | os.PathLike[str], max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Iterator[Image.Image | np.ndarray]:
    """The file's first picture, decoded; the file is closed at the end. As Pillow gives it, or, where it has more bits than
    Pillow's modes, an upright array (H, W), (H, W, 3) or, with alpha, (H, W, 4), uint16 or float32.

    max_pixels: a picture with more in its header is refused before any is decoded; None sets no limit.

    Raises MissingFileError where there is no such file, else ImageReadError; both name the file. An error in the body of
    the `with` counts as one in the file.
    """
    with _opened(path) as file:
        yield _alone(file, os.fspath(path), max_pixels)


def read_size(path: str | os.PathLike[str], max_pixels: int | None = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of a file's first picture, upright, from its header alone. Raises as `opened_image`."""
    with _opened(path) as file:
        name = os.fspath(path)
        image = _identify(file, name)
        if image is None:
            return tiff.read_size(file, name, lambda width, height: _check_pixels(width, height, name, max_pixels))
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            tiff.full_page(image)
        check_size(image, name, max_pixels)
        return upright_size(image)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The file; an error in the body of the `with` counts as one in it."""
    name = os.fspath(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for, a device read without end
            raise ImageReadError(f"cannot read image {name}: it is not a regular file", name)
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError as error:
        raise MissingFileError(f"no such image file: {name}") from error
    except ImageReadError:
        raise
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ValueError, EOFError, struct.error, ...
        raise ImageReadError(f"cannot read image {name}: {type(error).__name__}: {error}", name) from error


@contextmanager
def opened_bytes(data: bytes, name: str, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Iterator[Image.Image | np.ndarray]:
    """As `opened_image`, of a file's content; `name` is what errors call it."""
    try:
        with io.BytesIO(data) as file:
            yield _alone(file, name, max_pixels)
    except ImageReadError:
        raise
    except Exception as error:
        raise ImageReadError(f"cannot read image {name}: {type(error).__name__}: {error}", name) from error


def _alone(file: BinaryIO, name: str, max_pixels: int | None) -> Image.Image | np.ndarray:
    """The first picture; of others `tell_further` tells."""
    image = _identify(file, name)
    found = _first_picture(image, file, name, max_pixels)
    tell_further(count_pictures(image, file) - 1)
    return found


def count_pictures(image: Image.Image | None, file: BinaryIO | None = None) -> int:
    """Pages or frames of a file, which lies open as `file`, or that Pillow has open; 1 where that cannot be known, as of one that
    is closed, or damaged behind its first picture. The image stays at its frame."""
    try:
        if image is not None and not isinstance(image, (TiffImagePlugin.TiffImageFile, GifImagePlugin.GifImageFile)):
            return int(getattr(image, "n_frames", 1))
        file = cast(BinaryIO, file or getattr(image, "_fp", None) or image.fp)  # type: ignore[union-attr]  # its file is given where it is None
        at = file.tell()
        try:
            file.seek(0)
            return (
                GifImagePlugin.GifImageFile(file).n_frames
                if isinstance(image, GifImagePlugin.GifImageFile)
                else tiff.pictures(file)
            )
        finally:
            file.seek(at)
    except Exception:
        return 1


def _first_picture(
    image: ImageFile.ImageFile | None, file: BinaryIO, name: str, max_pixels: int | None
) -> Image.Image | np.ndarray:
    if image is None or isinstance(image, TiffImagePlugin.TiffImageFile):
        return _first_of_tiff(image, file, name, max_pixels)
    check_size(image, name, max_pixels)
    if isinstance(image, PngImagePlugin.PngImageFile):
        return png.decoded(image, file)
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile):
        return jpeg2000.decoded(image, file)
    image.load()
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        return ImageChops.invert(image)  # Pillow takes all for inverted, as Adobe's are
    if isinstance(image, TgaImagePlugin.TgaImageFile) and image.mode == "RGBA" and not _tga_has_alpha(file):
        return image.convert("RGB")
    if image.info.get("scale", 1) != 1:  # of a PFM; programs differ in whether they apply it
        raise ValueError(f"its numbers are to be scaled by {image.info['scale']}; write them with a scale of 1")
    return image


def _tga_has_alpha(file: BinaryIO) -> bool:
    """Whether the fourth byte of a colour means anything."""
    file.seek(17)
    return bool(file.read(1)[0] & 15)


def _first_of_tiff(
    image: TiffImagePlugin.TiffImageFile | None, file: BinaryIO, name: str, max_pixels: int | None
) -> Image.Image | np.ndarray:
    if image is not None:
        tiff.full_page(image)
        check_size(image, name, max_pixels)
        if tiff.read_right(image.tag_v2, image.tag_v2.prefix == TiffImagePlugin.II):
            return tiff.decoded(image, file)
    return tiff.read_samples(
        file, name, 0 if image is None else image.tell(), lambda width, height: _check_pixels(width, height, name, max_pixels)
    )


def read_lazily(image: Image.Image, name: str, max_pixels: int | None) -> Image.Image | np.ndarray:
    """A PIL image that the caller opened, decoded as a file of its kind is; raises ImageReadError where that came out wrong."""
    check_size(image, name, max_pixels)
    if (
        isinstance(image, (TiffImagePlugin.TiffImageFile, PngImagePlugin.PngImageFile))
        and image.tell() == 0
        and not _decoded(image)
    ):
        file = image.fp
        assert file is not None  # it is not decoded yet
        at = file.tell()
        file.seek(0)
        try:
            return _first_picture(_identify(cast(BinaryIO, file), name), cast(BinaryIO, file), name, max_pixels)
        finally:
            file.seek(at)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and not tiff.read_right(
        image.tag_v2, image.tag_v2.prefix == TiffImagePlugin.II
    ):
        raise ImageReadError(f"cannot read image {name}: Pillow does not read this kind of TIFF right; give its path", name)
    return image


def _decoded(image: ImageFile.ImageFile) -> bool:
    return getattr(image, "_im" if hasattr(image, "_im") else "im", None) is not None


def check_size(image: Image.Image, name: str, max_pixels: int | None) -> None:
    """Raises ImageReadError where the header of a file not decoded yet says more than max_pixels."""
    if isinstance(image, ImageFile.ImageFile):
        _check_pixels(image.width, image.height, name, max_pixels)


def _check_pixels(width: int, height: int, name: str, max_pixels: int | None) -> None:
    pixels = width * height
    if max_pixels is not None and pixels > max_pixels:
        raise ImageReadError(
            f"cannot read image {name}: its header says {width} x {height} = {pixels} pixels, "
            f"more than max_pixels ({max_pixels}); raise max_pixels if the file is to be trusted",
            name,
        )


def _identify(file: BinaryIO, name: str) -> ImageFile.ImageFile | None:
    """Read the header by the first format that it fits, as PIL.Image.open does; None for a TIFF of a kind that Pillow has no
    mode for. Pillow is not told the file's name, by which it would map the file instead of reading it."""
    start = file.read(16)
    if not start:
        raise ImageReadError(f"cannot read image {name}: the file is empty", name)
    # A TGA file has no signature, so nearly anything may be taken for one: only where the name says so.
    formats = (*_FORMATS, TgaImagePlugin.TgaImageFile.format) if Path(name).suffix.lower() == ".tga" else _FORMATS
    why = ""
    for known in formats:
        factory, accepts = Image.OPEN[known]
        accepted = not accepts or accepts(start)
        if isinstance(accepted, str):  # this Pillow lacks a library
            why = f"; {accepted}"
        elif accepted:
            file.seek(0)
            try:
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:  # how Pillow's formats decline a file
                if known == TiffImagePlugin.TiffImageFile.format and str(error) == "unknown pixel mode":
                    return None
                why = f"; {known}: {error}"
    raise ImageReadError(f"cannot read image {name}: it is not an image of a type read here ({' '.join(formats)}){why}", name)
