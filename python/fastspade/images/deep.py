"""Colours of 16 bits, of which Pillow keeps the upper 8: decoded twice, once for either byte."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import ImageFile

_NATIVE = "L" if sys.byteorder == "little" else "B"


def both_bytes(upper: ImageFile.ImageFile, lower: ImageFile.ImageFile) -> np.ndarray:
    """The same picture opened twice, not decoded yet, of mode RGB or RGBA -> (H, W, C) uint16.

    Pillow takes the upper byte of every sample; told that the samples have the other byte order, it takes the lower one.
    """
    lower.tile = [_with_args(tile, _swapped(tile[3])) for tile in lower.tile]
    pixels: np.ndarray = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
    return pixels


def with_raw_mode(image: ImageFile.ImageFile, mode: str, raw: str) -> ImageFile.ImageFile:
    """The picture, not decoded yet, to be unpacked another way."""
    image._mode = mode
    image.tile = [_with_args(tile, raw) for tile in image.tile]
    return image


def _swapped(args: Any) -> Any:
    if not isinstance(args, str):
        return (_swapped(args[0]), *args[1:])
    order = _NATIVE if args[-1] == "N" else args[-1]
    return args[:-1] + {"L": "B", "B": "L"}[order]


def _with_args(tile: Any, args: Any) -> Any:
    return type(tile)(*tile[:3], args) if hasattr(tile, "args") else (*tile[:3], args)
