"""Small encodings for the page: pictures as data URIs, arrays as deflated base64 that browsers unpack themselves."""

from __future__ import annotations

import base64
import io
import zlib

import numpy as np
from PIL import Image


def thumbnail(picture: Image.Image, side: int, quality: int = 82) -> tuple[str, int, int]:
    """A JPEG data URI at most `side` pixels wide and high, and its width and height."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _uri(small, "jpeg", quality=quality, optimize=True), small.width, small.height


def mask_picture(mask: np.ndarray, width: int, height: int) -> str:
    """(H, W) bool -> a one-bit PNG data URI of the size given; a thin defect stays visible where it is shrunk."""
    gray = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
    return _uri(gray.point(lambda value: 255 if value >= 64 else 0).convert("1"), "png", optimize=True)


def packed(values: np.ndarray) -> str:
    """The array's bytes, little-endian, deflated, in base64."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), 9)).decode("ascii")


def _uri(picture: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    picture.save(file, format=kind.upper(), **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
