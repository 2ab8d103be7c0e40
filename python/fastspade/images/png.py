"""PNG files: colours of 16 bits keep their depth, and the transparent colour is compared at the depth that it was written in."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from fastspade.images.deep import both_bytes, with_raw_mode
from fastspade.images.orientation import orientation, turned

_DEPTH_AT = 24  # of the bit depth, in IHDR
_GRAY, _RGB, _GRAY_ALPHA, _RGBA = 0, 2, 4, 6


def decoded(image: PngImagePlugin.PngImageFile, file: BinaryIO) -> Image.Image | np.ndarray:
    """A picture whose header was read; where it has 16 bits, upright (H, W), (H, W, 3) or (H, W, 4) uint16."""
    file.seek(_DEPTH_AT)
    depth, kind = file.read(2)
    clear = image.info.get("transparency")
    if depth < 8 and kind == _GRAY and clear is not None and image.mode == "L":
        image.info["transparency"] = clear * 255 // (2**depth - 1)
    if depth != 16 or (kind == _GRAY and clear is None):
        image.load()
        return image
    file.seek(0)
    again = PngImagePlugin.PngImageFile(file, "")
    pixels: np.ndarray
    if kind == _GRAY:
        pixels = np.asarray(image).astype(np.uint16)
    elif kind == _GRAY_ALPHA:
        high_low = np.asarray(with_raw_mode(again, "RGBA", "RGBA")).astype(np.uint16)
        pixels = (high_low[..., ::2] << 8 | high_low[..., 1::2])[..., [0, 0, 0, 1]]
    else:
        pixels = both_bytes(image, again)
    if clear is not None:
        pixels = pixels[..., None].repeat(3, axis=2) if kind == _GRAY else pixels
        alpha = np.where((pixels == np.array(clear)).all(axis=2, keepdims=True), 0, 65535).astype(np.uint16)
        pixels = np.concatenate([pixels, alpha], axis=2)
    return np.ascontiguousarray(turned(pixels, orientation(image)))
