"""The region of interest: which pixels of a picture count. A mask or a polygon for all pictures, or a folder of masks by stem."""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fastspade.errors import DtypeError, InputError, MissingFileError
from fastspade.images.geometry import CropBox
from fastspade.images.masks import load_mask
from fastspade.images.safe_file import SUFFIXES

AUTO = "auto"
POLYGON_SIDE = 2048  # a polygon in shares of a picture is drawn at this size
NEEDS = "a mask (file or array), a polygon [(x, y), ...], a folder of masks, or 'auto'"

Masks = Callable[[str], np.ndarray]
"""A picture's name -> (H, W) bool, of any size: it is laid over the picture whole."""


def check_roi(name: str, value: Any) -> Any:
    """As it is kept: None, "auto", a folder's path, or a mask packed into plain values (which it takes, too).

    Raises InputError, DtypeError, MissingFileError or ImageReadError.
    """
    if value is None or (isinstance(value, str) and value == AUTO):
        return value
    if isinstance(value, dict):
        _unpacked(value.get("shape"), value.get("bits"))
        return value
    if isinstance(value, (str, os.PathLike)):
        path = Path(value)
        if path.is_dir():
            return os.fspath(path)
        if not path.exists():
            raise MissingFileError(f"{name}: no such file or folder: {path}")
        return _packed(name, _read(path))
    if isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        return _packed(name, np.asarray(value))
    if isinstance(value, (list, tuple)):
        return _packed(name, _drawn(name, value))
    raise DtypeError(f"{name} must be {NEEDS}, got {type(value).__name__}")


def masks_of(kept: Any) -> Masks | None:
    """What `check_roi` kept, for use; None where there is no mask before features are known."""
    if kept is None or kept == AUTO:
        return None
    if isinstance(kept, dict):
        mask = _unpacked(kept["shape"], kept["bits"])
        return lambda _: mask
    return lambda name: _by_stem(kept, name)


def cut_mask(mask: np.ndarray, crop: CropBox, size: tuple[int, int], out: tuple[int, int]) -> np.ndarray:
    """(out) bool: the mask's pixel under every pixel's centre of `crop`, of a picture of `size` (H, W) that the mask covers."""
    down, across = mask.shape[0] / size[0], mask.shape[1] / size[1]
    rows = np.floor((crop.top + (np.arange(out[0]) + 0.5) * crop.height / out[0]) * down).astype(np.int64)
    columns = np.floor((crop.left + (np.arange(out[1]) + 0.5) * crop.width / out[1]) * across).astype(np.int64)
    found: np.ndarray = mask[rows.clip(0, mask.shape[0] - 1)[:, None], columns.clip(0, mask.shape[1] - 1)]
    return found


def _read(path: Path) -> np.ndarray:
    return load_mask(path)


def _drawn(name: str, points: Any) -> np.ndarray:
    """A polygon, in shares of the width and the height."""
    try:
        corners = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be {NEEDS}, got {str(points)[:80]}") from error
    if len(corners) < 3 or any(not (0 <= x <= 1 and 0 <= y <= 1) for x, y in corners):
        raise InputError(f"{name} must be a polygon of 3 points or more, (x, y) in shares of the width and height from 0 to 1; "
                         f"got {str(points)[:80]}")  # fmt: skip
    canvas = Image.new("1", (POLYGON_SIDE, POLYGON_SIDE))
    ImageDraw.Draw(canvas).polygon([(x * POLYGON_SIDE, y * POLYGON_SIDE) for x, y in corners], fill=1)
    return np.asarray(canvas)


def _packed(name: str, mask: np.ndarray) -> dict[str, Any]:
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "buif":
        raise InputError(f"{name} must be a mask (H, W), got an array {mask.shape} of {mask.dtype}")
    inside = mask > 0
    if not inside.any():
        raise InputError(f"{name} must hold a pixel that counts, but its mask is empty")
    bits = base64.b64encode(zlib.compress(np.packbits(inside).tobytes())).decode()
    return {"shape": list(inside.shape), "bits": bits}


def _unpacked(shape: Any, bits: Any) -> np.ndarray:
    try:
        height, width = (int(side) for side in shape)
        size = -(-height * width // 8)
        raw = zlib.decompressobj().decompress(base64.b64decode(bits, validate=True), size + 1)
        if min(height, width) < 1 or len(raw) != size:
            raise ValueError(f"{len(raw)} bytes for {height}x{width} pixels")
    except (TypeError, ValueError, zlib.error) as error:
        raise InputError(f"roi must be {NEEDS}; its packed mask is not usable: {error}") from error
    return np.unpackbits(np.frombuffer(raw, np.uint8), count=height * width).reshape(height, width).astype(bool)


@lru_cache(maxsize=64)
def _by_stem(folder: str, name: str) -> np.ndarray:
    for suffix in sorted(SUFFIXES):
        path = Path(folder, Path(name).stem + suffix)
        if path.is_file():
            return _read(path)
    raise InputError(f"roi: the folder {folder} holds no mask named {Path(name).stem}")
