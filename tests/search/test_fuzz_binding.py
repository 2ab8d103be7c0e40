"""The compiled module called directly with descriptions that cannot be true: refused before any memory is looked at.

A description may also lie in ways that numbers do not show (a shape larger than its memory): those are the caller's part,
fastspade.search, which describes real tensors only.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastspade.search.cpu import compiled_engine, describe

LIES = 3000
BEYOND = [2**31, 2**62, 2**63 - 1]
BELOW = [0, -1, -(2**31), -(2**63)]
# Values that no argument of that kind can have, whatever the others are.
WRONG = {
    "address": [0, 1, 3, 2**64 - 4, 2**64, -4, None, "0"],
    "dtype": [-1, 3, 2**31 - 1, 2**31, None, 0.5],
    "size": [*BELOW, *BEYOND, 2**63, None, 1.5],
    "images": [*BELOW, 2**62, 2**63, None],
    "stride": [-1, -(2**63), 2**62, 2**63 - 1, 2**63, None, 1.5],
    "gallery_index": [1, 4, 2**64, -8],
    "gallery_count": [*BELOW, *BEYOND, 2**63, 3],
    "kappa": [*BELOW, *BEYOND, 2**63],
    "upsample": [-1, 2, 2**31, None],
    "distances": [0, 1, 2, 2**64],
    "indices": [0, 1, 4, 2**64],
    "threads": [0, -1, -(2**31), 2**31],
}
MEMORY = torch.ones(4096)


def truth() -> dict[str, Any]:
    """A call as it should be, of two images against two, with two levels."""
    levels = [MEMORY[:480].view(2, 5, 8, 6), MEMORY[:144].view(2, 6, 4, 3)]
    described = [[list(part) if isinstance(part, tuple) else part for part in describe(level)] for level in levels]
    arguments = {"query": described, "gallery": copy.deepcopy(described), "gallery_index": 0, "gallery_count": 2, "kappa": 2}
    return arguments | {"upsample": 1, "threads": 1, "prune": True}


@st.composite
def lies(draw: st.DrawFn) -> list[tuple[str, ...]]:
    """What to put where: the names on the way to a value, then the value."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(sorted(WRONG)))
        value = draw(st.sampled_from(WRONG[kind]))
        side, level = draw(st.sampled_from(["query", "gallery"])), draw(st.integers(0, 1))
        axis = 0 if kind == "images" else draw(st.integers(1, 3))
        if kind in ("size", "images"):
            found.append((side, level, 2, axis, value))
        elif kind == "stride":
            found.append((side, level, 3, axis, value))
        elif kind in ("address", "dtype"):
            found.append((side, level, 0 if kind == "address" else 1, value))
        else:
            found.append((kind, value))
    return found


def call(arguments: dict[str, Any], distances: torch.Tensor, indices: torch.Tensor) -> None:
    compiled_engine().search_cpu(**({"distances": distances.data_ptr(), "indices": indices.data_ptr()} | arguments))


def outputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((2 * 48 * 2,), -7.0), torch.full((2 * 48 * 2,), -7)


def test_the_truth_is_answered():
    distances, indices = outputs()
    call(truth(), distances, indices)
    assert (distances == 0).all() and indices.tolist() == [0, 1] * 96


@pytest.mark.slow
def test_lies_that_show_are_refused(record_fault):
    told = []

    @settings(max_examples=LIES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(wrong=lies())
    def tell(wrong: list[tuple[Any, ...]]) -> None:
        arguments = truth()
        for *way, last, value in wrong:
            place: Any = arguments
            for name in way:
                place = place[name]
            place[last] = value
        distances, indices = outputs()
        with pytest.raises((ValueError, TypeError)):
            call(arguments, distances, indices)
        assert (distances == -7).all() and (indices == -7).all()
        told.append(wrong)

    tell()
    assert len(told) >= LIES
    record_fault(
        "descriptions that cannot be true given to the compiled module: addresses, sizes, strides, codes (hypothesis)",
        LIES,
        "ValueError or TypeError; nothing is read or written",
    )


DISAGREEMENTS = {
    "fewer levels": lambda a: a["gallery"].pop(),
    "no levels": lambda a: (a["query"].clear(), a["gallery"].clear()),
    "other channels": lambda a: a["query"][1][2].__setitem__(1, 5),
    "other images in a level": lambda a: a["query"][1][2].__setitem__(0, 1),
    "a coarse level taller than the finest": lambda a: a["query"][1][2].__setitem__(2, 9),
    "a coarse level wider than the finest": lambda a: a["gallery"][1][2].__setitem__(3, 7),
    "more neighbours than pixels": lambda a: a.update(kappa=97),
    "three axes": lambda a: a["query"][0].__setitem__(2, [5, 8, 6]),
    "five strides": lambda a: a["query"][0].__setitem__(3, [1, 1, 1, 1, 1]),
    "no strides": lambda a: a["gallery"][0].pop(),
    "an index outside the gallery": lambda a: a.update(gallery_index=OUTSIDE.data_ptr()),
    "a negative index": lambda a: a.update(gallery_index=NEGATIVE.data_ptr()),
}
OUTSIDE, NEGATIVE = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, -1, 0])


@pytest.mark.parametrize("what", DISAGREEMENTS)
def test_descriptions_that_disagree_are_refused(what, record_fault):
    arguments, (distances, indices) = truth(), outputs()
    DISAGREEMENTS[what](arguments)
    with pytest.raises((ValueError, TypeError)):
        call(arguments, distances, indices)
    assert (distances == -7).all() and (indices == -7).all()
    record_fault(
        "descriptions given to the compiled module that contradict each other", 1, "ValueError or TypeError; nothing is written"
    )
