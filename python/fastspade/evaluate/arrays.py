"""What the metrics read: labels and scores, as one array or many of differing sizes, counted at every score of a defect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MappingView, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fastspade.errors import DtypeError, InputError

Arrays: TypeAlias = npt.ArrayLike | torch.Tensor | Sequence[np.ndarray] | Sequence[torch.Tensor]
"""What the metrics take: one array or tensor, or a sequence of them."""

BLOCK = 1 << 24  # negatives counted in one step: however many there are, no more are held


class MetricValue(float):
    """A metric: a float that also says why it is NaN.

    reason: "" where the metric is defined; otherwise a sentence, and the value is NaN.
    """

    reason: str

    def __new__(cls, value: float, reason: str = "") -> MetricValue:
        made = super().__new__(cls, value)
        made.reason = reason
        return made

    @classmethod
    def undefined(cls, reason: str) -> MetricValue:
        return cls(float("nan"), reason)

    def __getnewargs__(self) -> tuple[float, str]:  # type: ignore[override]  # float's says that there is one argument
        return float(self), self.reason


@dataclass(frozen=True)
class Counts:
    """How many samples lie where, at every distinct score of a positive. Between two of these a threshold adds false positives
    alone, so that every metric here is made of nothing else, exactly.

    values (U,): those scores, ascending, of a floating or integer type. positives (U,): how many have each. below, up_to (U,):
    the negatives below it, and those not above it. negatives: of all.
    """

    values: np.ndarray
    positives: np.ndarray
    below: np.ndarray
    up_to: np.ndarray
    negatives: int

    def undefined(self, what: str) -> str:
        """Why no ROC or precision-recall curve exists, or "" where it does. what: "image", "pixel" or "sample"."""
        if len(self.values) == 0:
            return f"no defect {what}: every label is 0"
        if self.negatives == 0:
            return f"no normal {what}: every label is 1"
        return ""

    def true_positives(self) -> np.ndarray:
        """(U,) of every value as the threshold."""
        return np.cumsum(self.positives[::-1])[::-1]

    def false_positives(self) -> np.ndarray:
        """(U,) of every value as the threshold."""
        found: np.ndarray = self.negatives - self.below
        return found


def as_arrays(argument: str, values: Any) -> list[np.ndarray]:
    """One array or tensor, or a sequence of them, as a list of numpy arrays (no copies). Numbers make one array."""
    if hasattr(values, "detach"):  # a torch tensor
        values = values.detach().cpu()
        return [
            (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
        ]  # numpy has no bfloat16; float32 holds it
    if hasattr(values, "__array__"):  # numpy's, a pandas Series, ...
        values = np.asarray(values)
        if values.dtype != object:
            return [values]
    if not isinstance(values, Iterable) or isinstance(values, (Mapping, Set)):
        raise DtypeError(f"{argument} must be an array or a list of arrays, got {type(values).__name__}")
    values = list(values)
    if not any(np.ndim(value) or isinstance(value, MappingView) for value in values):
        return [np.asarray(values)]
    return [one for value in values for one in as_arrays(argument, value)]


def check_pairs(first: tuple[str, list[np.ndarray]], second: tuple[str, list[np.ndarray]]) -> None:
    """Both lists must hold arrays of the same shapes."""
    (left, lefts), (right, rights) = first, second
    if len(lefts) != len(rights):
        raise InputError(f"{left} and {right} must hold equally many arrays, got {len(lefts)} and {len(rights)}")
    for i, (a, b) in enumerate(zip(lefts, rights, strict=True)):
        if a.shape != b.shape:
            raise InputError(f"{left} and {right} must have the same shapes, but array {i} is {a.shape} and {b.shape}")


def as_bool(argument: str, values: np.ndarray) -> np.ndarray:
    """0 and 1 (or False and True; masks also 0 and 255) -> bool, without a copy where it is bool already."""
    if values.dtype == bool:
        return values
    if values.dtype.kind not in "iuf":
        raise DtypeError(f"{argument} must be numbers or booleans, got {values.dtype}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InputError(f"{argument} must not hold NaN")
    marks: np.ndarray = values != 0
    return marks


def score_type(argument: str, arrays: list[np.ndarray]) -> np.dtype:
    """The narrowest type that holds all scores exactly and sorts fast: float32 for float16, otherwise their own."""
    for array in arrays:
        if array.dtype.kind not in "iufb":
            raise DtypeError(f"{argument} must be real numbers, got {array.dtype}")
    found = np.result_type(*(array.dtype for array in arrays)) if arrays else np.dtype(np.float32)
    return np.dtype(np.float32) if found == np.float16 else np.dtype(np.uint8) if found == bool else found


def counts_of(labels: Arrays, scores: Arrays, names: tuple[str, str] = ("labels", "scores")) -> Counts:
    """The scores of label 0 counted between those of label 1. Beside the arguments no more than these and a block are held."""
    marks, values = as_arrays(names[0], labels), as_arrays(names[1], scores)
    check_pairs((names[0], marks), (names[1], values))
    kind = score_type(names[1], values)
    marks = [as_bool(names[0], mark) for mark in marks]
    positives = np.concatenate([np.empty(0, kind), *(value[mark] for mark, value in zip(marks, values, strict=True))])
    distinct, amounts = np.unique(positives, return_counts=True)
    others = (value[~mark] for mark, value in zip(marks, values, strict=True))
    return Counts(distinct, amounts, *count_between(distinct, others, names[1]))


def count_between(values: np.ndarray, negatives: Iterable[np.ndarray], argument: str) -> tuple[np.ndarray, np.ndarray, int]:
    """`Counts.below`, `up_to` and `negatives`. values (U,): distinct and ascending; negatives: parts of them, any sizes.

    Raises InputError for NaN in either, naming `argument`.
    """
    below, up_to, total = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64), 0
    for block in _blocks(negatives, values.dtype):
        block.sort()
        for last in (block[-1:], values[-1:]):
            if last.dtype.kind == "f" and np.isnan(last).any():  # NaN sorts last
                raise InputError(f"{argument} must not hold NaN")
        below += np.searchsorted(block, values, side="left")
        up_to += np.searchsorted(block, values, side="right")
        total += len(block)
    return below, up_to, total


def _blocks(parts: Iterable[np.ndarray], kind: np.dtype) -> Iterator[np.ndarray]:
    """The parts' values in blocks of BLOCK, the last one shorter and maybe empty; every block is overwritten by the next."""
    room, filled = np.empty(BLOCK, kind), 0
    for part in parts:
        rest = part.ravel()
        while len(rest):
            taken = rest[: BLOCK - filled]
            room[filled : filled + len(taken)] = taken
            filled, rest = filled + len(taken), rest[len(taken) :]
            if filled == BLOCK:
                yield room
                filled = 0
    yield room[:filled]
