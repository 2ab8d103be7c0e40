"""What callers may ask of a bank: which ids, and which other banks it takes."""

from __future__ import annotations

import operator
from typing import Any

from fastspade.errors import InputError


def numbers(ids: Any) -> list[int]:
    """One id or several, of any whole-number type."""
    try:
        return (
            [operator.index(ids)]
            if hasattr(ids, "__index__") and not getattr(ids, "shape", ())
            else list(map(operator.index, ids))
        )
    except TypeError:
        raise InputError(f"ids must be whole numbers, got {str(ids)[:80]}") from None


def check_same_maker(mine: dict[str, Any] | None, theirs: dict[str, Any] | None) -> None:
    """Raises InputError, naming what differs, unless both are the spec of one backbone with the same options."""
    if mine is None and theirs is None:
        return
    if mine is None or theirs is None:
        raise InputError("other and this bank must come from the same backbone, but of one of them that is not known")
    absent = {"local_average": False, "reflect_border": False}  # a file may lack any of them
    for name in ("resize", "crop", "local_average", "reflect_border", "tile", "overlap", "roi"):
        here, there = mine.get(name, absent.get(name)), theirs.get(name, absent.get(name))
        if here != there:
            raise InputError(f"other was made with {name}={there!r}, this bank with {name}={here!r}")
    my_backbone, their_backbone = mine["backbone"], theirs["backbone"]
    for name in ("name", "layers", "embedding", "mean", "std", "fingerprint"):  # not where the weights' file lay
        if my_backbone.get(name) != their_backbone.get(name):
            raise InputError(
                f"other comes from another backbone: its {name} is {their_backbone.get(name)!r}, this bank's is "
                f"{my_backbone.get(name)!r}"
            )
