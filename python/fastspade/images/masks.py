"""Ground-truth masks: which pixels of a picture of any mode and format are marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fastspade.images.decode import as_rgba, has_alpha
from fastspade.images.further import further_pictures
from fastspade.images.orientation import upright
from fastspade.images.safe_file import DEFAULT_MAX_PIXELS, opened_image

LOSSY = {"JPEG": "a JPEG", "MPO": "a JPEG", "JPEG2000": "a JPEG 2000", "WEBP": "a lossy WebP"}


def load_mask(path: Path, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """(H, W) bool: true where the picture is neither black nor transparent.

    Raises ImageReadError naming the file, also where its format blurs masks, it holds several pictures, or what is marked cannot
    be told.
    """
    with further_pictures() as further, opened_image(path, max_pixels) as image:
        if further:
            raise ValueError(f"it holds {1 + sum(further)} pictures; a mask must be one")
        if not isinstance(image, Image.Image):
            alpha = image.ndim == 3 and image.shape[2] == 4
            return _seen(_nonzero(image[..., :3]), image[..., 3] != 0) if alpha else _nonzero(image)
        if image.format in LOSSY and not (image.format == "WEBP" and b"VP8 " not in path.read_bytes()):
            raise ValueError(f"it is {LOSSY[image.format]}, whose compression blurs masks; needs PNG, BMP or TIFF")
        if image.info.get("compression") in ("jpeg", "tiff_jpeg"):
            raise ValueError("it is a TIFF compressed as JPEG, which blurs masks; needs another compression")
        return _marked(upright(image))


def _marked(image: Image.Image) -> np.ndarray:
    if has_alpha(image):
        values = np.asarray(as_rgba(image))
        return _seen(_nonzero(values[..., :3]), values[..., 3] != 0)
    if image.mode == "P":
        _check_palette(image)
    if image.mode == "LAB":  # whose black comes out one step off black
        return _nonzero(np.asarray(image.getchannel("L")))
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return _nonzero(np.asarray(image))
    return _nonzero(np.asarray(image.convert("RGB")))


def _nonzero(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError("it holds NaN")
    marked: np.ndarray = values != 0
    if marked.ndim == 3:
        marked = np.any(marked, axis=2)
    return marked


def _seen(coloured: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Marked is what is coloured and not transparent."""
    marked: np.ndarray = coloured & visible
    if not visible.all() and not marked.any():
        raise ValueError("all of it is black or transparent, and which of them is marked cannot be told; write it without alpha")
    return marked


def _check_palette(image: Image.Image) -> None:
    numbers, colours = image.getcolors(), image.convert("RGB").getcolors(1)
    if len(numbers or ()) > 1 and colours is not None:
        raise ValueError("its palette gives all its numbers one colour, so that what is marked cannot be told")
