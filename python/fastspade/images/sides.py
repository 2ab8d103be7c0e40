"""`resize` and `crop` as they may be given -> as they are used."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fastspade.errors import DtypeError, InputError

Pixels = int | tuple[int, int]
"""A number, or (height, width), in pixels."""


def optional_pixels(name: str, value: Any) -> Pixels | None:
    """A number, a pair (height, width), or such as text ("224", "160x416", "none"), or None."""
    return (
        None if value is None or value == "none" else _pixels(name, value, "a number of pixels, a pair (height, width), or None")
    )


def pixels_or_whole(name: str, value: Any) -> Pixels | str:
    """A number, a pair (height, width), or such as text ("256", "160x416"), or "whole"."""
    if isinstance(value, str) and value == "whole":
        return value
    return _pixels(name, value, "a number of pixels, a pair (height, width), or 'whole'")


def optional_tile(name: str, value: Any) -> tuple[int, int] | None:
    """As optional_pixels, a number being both sides."""
    found = optional_pixels(name, value)
    return (found, found) if isinstance(found, int) else found


def pair(name: str, value: Any) -> tuple[int, int]:
    """(height, width)."""
    found = _pixels(name, value, "a pair (height, width)")
    return found if isinstance(found, tuple) else (found, found)


def check_crop(resize: Pixels | str | None, crop: Pixels | None) -> None:
    """Raises InputError where a crop cannot fit whatever the picture."""
    if crop is None or resize is None or isinstance(resize, str):
        return
    if isinstance(resize, int):  # the shorter side
        fits = (crop if isinstance(crop, int) else min(crop)) <= resize
    else:
        sides = (crop, crop) if isinstance(crop, int) else crop
        fits = sides[0] <= resize[0] and sides[1] <= resize[1]
    if not fits:
        raise InputError(f"crop must not exceed resize ({resize}), got {crop}")


def _pixels(name: str, value: Any, needs: str) -> Pixels:
    if isinstance(value, str):
        form = re.fullmatch(r"(\d+)(?:x(\d+))?", value)
        if form is None:
            raise InputError(f"{name} must be {needs}, got {value!r}")
        value = int(form[1]) if form[2] is None else (int(form[1]), int(form[2]))
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise InputError(f"{name} must be {needs}, got {value!r}")
        return _side(name, value[0], needs), _side(name, value[1], needs)
    return _side(name, value, needs)


def _side(name: str, value: Any, needs: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise DtypeError(f"{name} must be {needs}, got {type(value).__name__}")
    if value < 1:
        raise InputError(f"{name} must be at least 1, got {value}")
    return int(value)
