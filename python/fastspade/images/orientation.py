"""Which way up a picture lies: EXIF's orientation, which the TIFF tag of that name is, too."""

from __future__ import annotations

import numpy as np
from PIL import Image, TiffImagePlugin

_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int:
    """What EXIF says; 1, as stored, where it cannot be read. (ImageOps.exif_transpose also rewrites the EXIF block, which
    fails where any of it is corrupt.)"""
    try:
        value = image.getexif().get(_TAG, 1)
    except Exception:  # corrupt metadata is no reason to refuse the picture
        return 1
    return value if isinstance(value, int) else 1


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says. A TIFF turns itself when it is decoded, which therefore comes first."""
    image.load()
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as stored -> upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) once turned, of a picture that need not be decoded yet."""
    height, width = image.height, image.width
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose size is turned already in some versions of Pillow
        width, height = image.tag_v2.get(256, width), image.tag_v2.get(257, height)
    return (width, height) if orientation(image) in (5, 6, 7, 8) else (height, width)
