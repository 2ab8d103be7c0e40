"""Thresholds for decisions and masks, from normal images alone.

Every normal image is scored against the others (leave one out). The threshold is the smallest of these scores that no
more than the target share of them exceeds, so no defect is needed and nothing is assumed about how scores are
distributed. With fewer than 1 / target images it is the largest score: of new normal images about 1 in N + 1 will
exceed it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastspade.errors import ModelFileError


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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Threshold:
        """The threshold of a model file. Raises ModelFileError where its numbers are not usable."""
        try:
            made = cls(**{name: float(values[name]) for name in ("image", "pixel", "target_fpr", "pixel_target_fpr")},
                       images=int(values["images"]), next_id=None if values.get("next_id") is None else int(values["next_id"]))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ModelFileError(f"path: the model's threshold is not usable: {type(error).__name__}: {error}") from error
        if not isinstance(values, Mapping) or not (math.isfinite(made.image) and math.isfinite(made.pixel)):
            raise ModelFileError(f"path: the model's threshold must be finite numbers, got {values!r}")
        return made


class LargestValues:
    """The n-th largest of a stream of values, in memory of about 2 n (or of one batch, where that is more)."""

    def __init__(self, total: int, exceed: float) -> None:
        """total: how many values will come. exceed: the share of them that may exceed the quantile."""
        self._count = min(total, int(exceed * total) + 1)
        self._kept = np.empty(0, dtype=np.float32)

    def add(self, values: np.ndarray) -> None:
        values = np.asarray(values, dtype=np.float32).ravel()
        if len(self._kept) >= self._count:  # what is not above the smallest kept cannot matter
            values = values[values > self._kept.min()]
        self._kept = np.concatenate([self._kept, values])
        if len(self._kept) > self._count:
            self._kept = np.partition(self._kept, len(self._kept) - self._count)[-self._count :]

    def quantile(self) -> float:
        """The smallest value added that no more than the share `exceed` of all are above."""
        return float(self._kept.min())
