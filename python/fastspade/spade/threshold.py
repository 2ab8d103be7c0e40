"""Thresholds for decisions and masks, from normal images alone.

Every normal image is scored against the others (leave one out), so no defect is needed. A map has so many pixels that
their threshold is simply the smallest value that no more than the target share of them exceeds. An image has one score, and
the target share is usually finer than one image in N: a Gumbel distribution, that of the largest of many values, is fitted
to the scores, and its tail gives the threshold. Where 10 scores or more lie beyond, it is the empirical quantile instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastspade.errors import ModelFileError

MATCHED = 300  # normal images that thresholds and ceilings are made of, evenly spread where there are more
SPEAK_FOR_THEMSELVES = 10  # scores beyond a threshold
FEW = 50  # normal images: with fewer the share of false alarms is little more than a guess


@dataclass(frozen=True)
class Threshold:
    """image, pixel: a score, or a value of the map, above this is a defect. target_fpr, pixel_target_fpr: the share of
    normal images, and of normal pixels, that may exceed them. images: how many normal images they came from; next_id: the
    bank's then, which tells whether they are still the same (None in old files)."""

    image: float
    pixel: float
    target_fpr: float
    pixel_target_fpr: float
    images: int
    next_id: int | None = None

    def fits(self, images: int, next_id: int) -> bool:
        """Are the normal images of a bank those that the thresholds came from? Adding raises next_id, removing lowers the
        count, so that both together tell."""
        return self.images == images and self.next_id in (None, next_id)

    def false_alarm_range(self) -> tuple[float, float]:
        """Between which shares of new normal images the decisions will call defects, in 9 of 10 cases, if new ones differ from
        the known as those differ from each other."""
        return false_alarm_range(min(self.images, MATCHED), self.target_fpr)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Threshold:
        """The threshold of a model file. Raises ModelFileError where its numbers are not usable."""
        try:
            made = cls(
                **{name: float(values[name]) for name in ("image", "pixel", "target_fpr", "pixel_target_fpr")},
                images=int(values["images"]),
                next_id=None if values.get("next_id") is None else int(values["next_id"]),
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ModelFileError(f"path: the model's threshold is not usable: {type(error).__name__}: {error}") from error
        if not isinstance(values, Mapping) or not (math.isfinite(made.image) and math.isfinite(made.pixel)):
            raise ModelFileError(f"path: the model's threshold must be finite numbers, got {values!r}")
        return made


def tail_quantile(scores: np.ndarray, exceed: float) -> float:
    """The score that a share `exceed` of new normal images will be above, from those of N normal images (N,); the largest of
    them where exceed is 0 or all are alike."""
    from scipy import stats  # takes a second, which only who calibrates should wait for

    scores = np.sort(np.asarray(scores, dtype=np.float64))
    if exceed == 0 or scores[0] == scores[-1]:
        return float(scores[-1])
    if exceed * len(scores) >= SPEAK_FOR_THEMSELVES:
        return float(scores[-1 - int(exceed * len(scores))])
    return float(stats.gumbel_r.isf(exceed, *stats.gumbel_r.fit(scores)))


def percent(share: float) -> str:
    """0.0123 -> "1.2 %"."""
    return f"{100 * share:.2g} %"


def false_alarm_range(images: int, target: float) -> tuple[float, float]:
    """Between which shares of new normal images will be above `tail_quantile`, in 9 of 10 cases.

    Of a Gumbel fit by the asymptotic variance of its quantile, which depends on neither location nor scale; of scores that
    speak for themselves by the beta distribution of order statistics.
    """
    from scipy import stats

    if target == 0 or target * images >= SPEAK_FOR_THEMSELVES:
        above = int(target * images)
        low, high = stats.beta.interval(0.9, above + 1, images - above)
    else:
        at = stats.gumbel_r.isf(target)
        # Standard maximum likelihood results: variances of location and scale, and twice their covariance, times N.
        spread = stats.norm.isf(0.05) * math.sqrt((1.1087 + 0.5140 * at + 0.6079 * at**2) / images)
        low, high = stats.gumbel_r.sf([at + spread, at - spread])
    return float(low), float(high)


class LargestValues:
    """The n-th largest of a stream of values, in memory of about 2 n (or of one batch, where that is more)."""

    def __init__(self, total: int, exceed: float) -> None:
        """total: how many values will come. exceed: the share of them that may exceed the quantile."""
        self._count = min(total, int(exceed * total) + 1)
        self._kept = np.empty(0, dtype=np.float32)
        self._waiting: list[np.ndarray] = []  # until there are as many as are kept, so that the work grows with the values alone
        self._number_waiting, self._least = 0, -np.inf

    def add(self, values: np.ndarray) -> None:
        values = np.asarray(values, dtype=np.float32).ravel()
        values = values[values > self._least]  # what is not above the smallest kept cannot matter
        if len(values):
            self._waiting.append(values.copy())
            self._number_waiting += len(values)
            if self._number_waiting >= self._count:
                self._settle()

    def _settle(self) -> None:
        self._kept = np.concatenate([self._kept, *self._waiting])
        self._waiting, self._number_waiting = [], 0
        if len(self._kept) > self._count:
            self._kept = np.partition(self._kept, len(self._kept) - self._count)[-self._count :]
        if len(self._kept) == self._count:
            self._least = float(self._kept.min())

    def quantile(self) -> float:
        """The smallest value added that no more than the share `exceed` of all are above."""
        self._settle()
        return float(self._kept.min())
