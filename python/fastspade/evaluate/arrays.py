"""What the metrics read: labels and scores, as one array or many of differing sizes, split into two sorted arrays."""

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

CHUNK = 1 << 20  # positives looked at in one step; bounds the memory of intermediate results


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
class SortedScores:
    """Scores split by label, each ascending: negatives (N,) and positives (P,), of one floating or integer type."""

    negatives: np.ndarray
    positives: np.ndarray

    def undefined(self, what: str) -> str:
        """Why no ROC or precision-recall curve exists, or "" where it does. what: "image", "pixel" or "sample"."""
        if len(self.positives) == 0:
            return f"no defect {what}: every label is 0"
        if len(self.negatives) == 0:
            return f"no normal {what}: every label is 1"
        return ""

    def groups(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The distinct positive values, ascending, in chunks: (index of the first of each, the value, how many)."""
        start = 0
        while start < len(self.positives):
            stop = min(start + CHUNK, len(self.positives))
            stop = int(np.searchsorted(self.positives, self.positives[stop - 1], side="right"))  # keep ties together
            part = self.positives[start:stop]
            first = np.flatnonzero(np.concatenate([[True], part[1:] != part[:-1]]))
            yield start + first, part[first], np.diff(np.append(first, len(part)))
            start = stop


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


def split(labels: Arrays, scores: Arrays, names: tuple[str, str] = ("labels", "scores")) -> SortedScores:
    """Scores of label 0 and of label 1, each sorted. One copy of the scores in their own type is all that is held."""
    marks, values = as_arrays(names[0], labels), as_arrays(names[1], scores)
    check_pairs((names[0], marks), (names[1], values))
    kind = score_type(names[1], values)
    marks = [as_bool(names[0], mark) for mark in marks]
    positive = sum(int(np.count_nonzero(mark)) for mark in marks)
    total = sum(mark.size for mark in marks)
    negatives, positives = np.empty(total - positive, kind), np.empty(positive, kind)
    low = high = 0
    for mark, value in zip(marks, values, strict=True):
        chosen, others = value[mark], value[~mark]
        positives[high : high + len(chosen)] = chosen
        negatives[low : low + len(others)] = others
        low, high = low + len(others), high + len(chosen)
    for part in (negatives, positives):
        part.sort()
        if kind.kind == "f" and len(part) and np.isnan(part[-1]):  # NaN sorts last
            raise InputError(f"{names[1]} must not hold NaN")
    return SortedScores(negatives, positives)
