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
from typing import BinaryIO

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
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

SUFFIXES = frozenset(
    ".bmp .dib .gif .j2k .jp2 .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)
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
def opened_image(path: str | os.PathLike[str], max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Iterator[Image.Image]:
    """The file's first picture, decoded, as Pillow gives it; the file is closed at the end.

    max_pixels: a picture with more in its header is refused before any is decoded; None sets no limit.

    Raises MissingFileError where there is no such file, else ImageReadError; both name the file. An error in the body of
    the `with` counts as one in the file.
    """
    name = os.fspath(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for, a device read without end
            raise ImageReadError(f"cannot read image {name}: it is not a regular file", name)
        with open(path, "rb") as file:
            yield _first_picture(file, name, max_pixels)
    except FileNotFoundError as error:
        raise MissingFileError(f"no such image file: {name}") from error
    except ImageReadError:
        raise
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ValueError, EOFError, struct.error, ...
        raise ImageReadError(f"cannot read image {name}: {type(error).__name__}: {error}", name) from error


@contextmanager
def opened_bytes(data: bytes, name: str, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Iterator[Image.Image]:
    """As `opened_image`, of a file's content; `name` is what errors call it."""
    try:
        with io.BytesIO(data) as file:
            yield _first_picture(file, name, max_pixels)
    except ImageReadError:
        raise
    except Exception as error:
        raise ImageReadError(f"cannot read image {name}: {type(error).__name__}: {error}", name) from error


def _first_picture(file: BinaryIO, name: str, max_pixels: int | None) -> Image.Image:
    image = _identify(file, name)
    check_size(image, name, max_pixels)
    image.load()
    if image.format == "JPEG2000" and not _holds_whole_codestream(file):
        raise EOFError("the codestream ends before its end marker")
    return image


def check_size(image: Image.Image, name: str, max_pixels: int | None) -> None:
    """Raises ImageReadError where the header of a file not decoded yet says more than max_pixels."""
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels and isinstance(image, ImageFile.ImageFile):
        raise ImageReadError(
            f"cannot read image {name}: its header says {image.width} x {image.height} = {pixels} pixels, "
            f"more than max_pixels ({max_pixels}); raise max_pixels if the file is to be trusted",
            name,
        )


def _identify(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Read the header by the first format that it fits, as PIL.Image.open does."""
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
                return factory(file, name)
            except (SyntaxError, IndexError, TypeError, struct.error) as error:  # how Pillow's formats decline a file
                why = f"; {known}: {error}"
    raise ImageReadError(f"cannot read image {name}: it is not an image of a type read here ({' '.join(formats)}){why}", name)


def _holds_whole_codestream(file: BinaryIO) -> bool:
    """Whether a JPEG 2000 file has its end: cut between two tiles it decodes without an error, the rest black."""
    file.seek(0)
    end = file.seek(0, os.SEEK_END)
    at = 0
    file.seek(at)
    if file.read(2) != b"\xff\x4f":  # boxes (ISO/IEC 15444-1, annex I), one of which holds the codestream
        while True:
            file.seek(at)
            header = file.read(16)
            if len(header) < 8:
                return False
            size, kind = struct.unpack(">I4s", header[:8])
            if size == 1:
                size = struct.unpack(">Q", header[8:16])[0] if len(header) == 16 else 0
            size = size or end - at
            if kind == b"jp2c":
                end = min(end, at + size)
                break
            at += max(size, 8)
    file.seek(max(at, end - 64))
    return file.read(end - file.tell()).rstrip(b"\0").endswith(b"\xff\xd9")
