"""PRO, the per-region overlap (Bergmann et al., MVTec AD, CVPR 2019 and IJCV 2021, section "Evaluation Metric").

The curve: for every distinct score as a threshold, the false-positive rate over all defect-free pixels of all images,
against the mean over all ground-truth regions (8-connected) of the share of the region at or above the threshold.
PRO is its area from FPR 0 to the limit, by trapezoids, linearly interpolated at the limit, divided by the limit.

How it is computed: on that curve a region pixel of score s counts 0 before the FPR of the threshold above s, 1 from
the FPR at s on, and linearly between (all scores equal to s lie on one segment). So the area is a weighted sum over
defect pixels of a closed form, with weight 1 / (size of its region * number of regions): the defect-free pixels are only
counted between these, and no curve has a point for every score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastspade.errors import InputError
from fastspade.evaluate.arrays import Counts, MetricValue, as_arrays, as_bool, check_pairs, count_between, score_type
from fastspade.evaluate.metrics import curve
from fastspade.evaluate.regions import label_regions

if TYPE_CHECKING:
    from fastspade.evaluate.arrays import Arrays


@dataclass(frozen=True)
class PixelCounts(Counts):
    """Of pixels; weights (U,): what the positive pixels of each score add to the mean overlap (they sum to 1).

    regions: the number of ground-truth regions.
    """

    weights: np.ndarray
    regions: int


def pro(maps: Arrays, masks: Arrays, fpr_limit: float = 0.3) -> MetricValue:
    """Area under the PRO curve up to fpr_limit, divided by it: 0 to 1.

    maps: anomaly maps (H_i, W_i), higher is more anomalous; a list of arrays of any sizes, or (N, H, W). masks: the
    same shapes, non-zero where a defect is. fpr_limit: in (0, 1]; the MVTec evaluation uses 0.3.

    NaN, with a reason, where there is no defect region or no defect-free pixel. Raises InputError for NaN in a map or
    shapes that differ.
    """
    check_limit(fpr_limit)
    return pro_of(pixel_counts(maps, masks), fpr_limit)


def check_limit(fpr_limit: float) -> None:
    if not 0 < fpr_limit <= 1:
        raise InputError(f"fpr_limit must lie in (0, 1], got {fpr_limit}")


def pixel_counts(maps: Arrays, masks: Arrays, inside: Sequence[np.ndarray] | None = None) -> PixelCounts:
    """The pixels of a test set, counted at every score of a defect pixel.

    inside: bool, like the masks: the pixels that count; None: all.
    """
    values, marks = _images("maps", maps), _images("masks", masks)
    check_pairs(("maps", values), ("masks", marks))
    kind = score_type("maps", values)
    return count_pixels(values.__getitem__, [as_bool("masks", mark) for mark in marks], inside, kind)


def count_pixels(
    values: Callable[[int], np.ndarray], marks: Sequence[np.ndarray], inside: Sequence[np.ndarray] | None, kind: np.dtype
) -> PixelCounts:
    """As `pixel_counts`, of maps of type `kind`; values(i) makes the i-th, so that one is held at a time: memory grows with the
    defects' pixels (about 50 bytes each), not with the others. Maps with defects are made twice."""
    positives, weights, regions = [np.empty(0, kind)], [np.empty(0)], 0
    for i, mark in enumerate(marks):
        counted = mark if inside is None else mark & inside[i]
        if counted.any():
            region, found = label_regions(counted)
            positives.append(values(i)[counted])
            weights.append((1 / np.bincount(region, minlength=found))[region])
            regions += found
    pixels, weight = np.concatenate(positives), np.concatenate(weights)
    distinct, place, amounts = np.unique(pixels, return_inverse=True, return_counts=True)
    weight = np.bincount(place, weight, minlength=len(distinct)) / max(1, regions)
    others = (values(i)[~mark if inside is None else inside[i] & ~mark] for i, mark in enumerate(marks))
    return PixelCounts(distinct, amounts, *count_between(distinct, others, "maps"), weight, regions)


def _images(argument: str, values: Arrays) -> list[np.ndarray]:
    found = [image for array in as_arrays(argument, values) for image in (array if array.ndim == 3 else [array])]
    for image in found:
        if image.ndim != 2:
            raise InputError(f"{argument} must be images (H, W) or stacks (N, H, W), got shape {image.shape}")
    return found


def pro_of(data: PixelCounts, fpr_limit: float = 0.3) -> MetricValue:
    """`pro` of pixels already counted."""
    if data.regions == 0:
        return MetricValue.undefined("no defect region: every mask is empty")
    if data.negatives == 0:
        return MetricValue.undefined("no defect-free pixel: the false-positive rate is undefined")
    before, at = ((data.negatives - lower) / data.negatives for lower in (data.up_to, data.below))
    return MetricValue(float((data.weights * _area_of_ramp(before, at, fpr_limit)).sum()) / fpr_limit)


def _area_of_ramp(before: np.ndarray, at: np.ndarray, limit: float) -> np.ndarray:
    """Area from 0 to limit under what is 0 up to `before`, 1 from `at` on, and linear between."""
    cut = np.clip(limit - before, 0, None)
    rise = np.minimum(at - before, cut)
    width = np.where(at > before, at - before, 1)
    return np.where(at > before, rise * rise / (2 * width), 0) + np.clip(limit - at, 0, None)


def pro_curve(data: PixelCounts, points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """At most about `points` exact points of the PRO curve for drawing: FPR and mean overlap, ascending, ends included."""
    overlap = np.cumsum(data.weights[::-1])[::-1]
    return curve(data, overlap, overlap - data.weights, points)
