"""Checks of arguments: each takes a name and a value, and returns the value as it is kept or raises an error that names the
argument, what it got and what it needs. Numbers may be Python's or numpy's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastspade.errors import DtypeError, InputError


def anything(_: str, value: Any) -> Any:
    """Checked where it is used."""
    return value


def _plain(value: Any) -> Any:
    """The number that an array or tensor without dimensions holds."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def count(name: str, value: Any, least: int = 1) -> int:
    """An integer, 1 or more."""
    value = _plain(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise DtypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")
    return int(value)


def optional_count(name: str, value: Any) -> int | None:
    return None if value is None else count(name, value)


def optional_workers(name: str, value: Any) -> int | None:
    """An integer, 0 or more, or None."""
    return None if value is None else count(name, value, 0)


def truth(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_, int, np.integer)):
        raise DtypeError(f"{name} must be True or False, got {type(value).__name__}")
    return bool(value)


def length(name: str, value: Any, also: str = "") -> float:
    """A finite number of pixels, 0 or more."""
    value = _plain(value)
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value >= 0):
        raise InputError(f"{name} must be a finite number of pixels, 0 or more{also}, got {value!r}")
    return float(value)


def optional_length(name: str, value: Any) -> float | None:
    return None if value is None else length(name, value, ", or None")


def choice(known: Sequence[str]) -> Callable[[str, Any], str]:
    """One of some words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise InputError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        return str(value)

    return check


def share(name: str, value: Any) -> float:
    """A share from 0 up to 1, 1 not included."""
    value = _plain(value)
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not (number and 0 <= value < 1):
        raise InputError(f"{name} must be a share from 0 up to 1 (1 not included), got {value!r}")
    return float(value)


def optional_number(name: str, value: Any) -> float | None:
    """A finite number, or None."""
    if value is None:
        return None
    value = _plain(value)
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not (number and math.isfinite(value)):
        raise InputError(f"{name} must be a finite number, got {value!r}")
    return float(value)
