"""JPEG 2000 files: whole ones alone, with their samples scaled by the bits that they have (ISO/IEC 15444-1, annexes A and I)."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

import numpy as np
from PIL import Image, Jpeg2KImagePlugin

_SIZES = 4 + 2 + 34  # bytes from the codestream's start to the number of components


def decoded(image: Jpeg2KImagePlugin.Jpeg2KImageFile, file: BinaryIO) -> Image.Image | np.ndarray:
    """A picture whose header was read; with (H, W) uint16 where it is gray of 9 to 15 bits.

    Raises EOFError for a file without its end: cut between two tiles it decodes without an error, the rest black. Raises
    ValueError for samples that Pillow gives as other numbers.
    """
    found = _codestream(file)
    if found is None:
        raise EOFError("it holds no codestream")
    start, end = found
    bits, signed = _samples(file, start)
    if signed:
        raise ValueError("its samples are signed")
    if len(set(bits)) > 1 or bits[0] > (16 if len(bits) == 1 else 8) or (image.mode == "P" and bits[0] < 8):
        # Of colours of more bits Pillow rounds the brightest to 0.
        raise ValueError(f"{len(bits)} components of {bits[0]} bits; gray of up to 16 bits and colours of up to 8 are read")
    image.load()
    file.seek(max(start, end - 64))
    if not file.read(end - file.tell()).rstrip(b"\0").endswith(b"\xff\xd9"):
        raise EOFError("the codestream ends before its end marker")
    return _filled(image, bits[0])


def _filled(image: Image.Image, bits: int) -> Image.Image | np.ndarray:
    """Pillow shifts samples up to 8 or 16 bits, so that the highest stays below the full range."""
    if bits in (8, 16):
        return image
    full, whole = (255, 8) if bits < 8 else (65535, 16)
    scale = full / ((2**bits - 1) << (whole - bits))
    if bits > 8:
        pixels: np.ndarray = np.rint(np.asarray(image) * scale).astype(np.uint16)
        return pixels
    return image.point([round(value * scale) if value * scale < full else full for value in range(256)] * len(image.getbands()))


def _codestream(file: BinaryIO) -> tuple[int, int] | None:
    """Where it starts, and where it must have ended."""
    file.seek(0)
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(2) == b"\xff\x4f":
        return 0, end
    at = 0
    while True:
        file.seek(at)
        header = file.read(16)
        if len(header) < 8:
            return None
        size, kind = struct.unpack(">I4s", header[:8])
        length = 8
        if size == 1:
            size, length = (struct.unpack(">Q", header[8:16])[0], 16) if len(header) == 16 else (0, 8)
        size = size or end - at
        if kind == b"jp2c":
            return at + length, min(end, at + size)
        at += max(size, 8)


def _samples(file: BinaryIO, start: int) -> tuple[list[int], bool]:
    """The bits of every component, and whether any is signed."""
    file.seek(start + _SIZES)
    (count,) = struct.unpack(">H", file.read(2))
    kinds = file.read(3 * count)[::3]
    if not kinds:
        raise EOFError("the codestream ends in its header")
    return [(kind & 127) + 1 for kind in kinds], any(kind & 128 for kind in kinds)
