"""PRO, the per-region overlap (Bergmann et al., MVTec AD, CVPR 2019 and IJCV 2021, section "Evaluation Metric").

The curve: for every distinct score as a threshold, the false-positive rate over all defect-free pixels of all images,
against the mean over all ground-truth regions (8-connected) of the share of the region at or above the threshold.
PRO is its area from FPR 0 to the limit, by trapezoids, linearly interpolated at the limit, divided by the limit.

How it is computed: on that curve a region pixel of score s counts 0 before the FPR of the threshold above s, 1 from
the FPR at s on, and linearly between (all scores equal to s lie on one segment). So the area is a weighted sum over
defect pixels of a closed form, with weight 1 / (size of its region * number of regions): one sort of the defect-free
scores, and no curve with a point for every score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastspade.errors import InputError
from fastspade.evaluate.arrays import MetricValue, SortedScores, as_arrays, as_bool, check_pairs, score_type
from fastspade.evaluate.metrics import curve_thresholds
from fastspade.evaluate.regions import label_regions

if TYPE_CHECKING:
    from fastspade.evaluate.arrays import Arrays


@dataclass(frozen=True)
class PixelScores(SortedScores):
    """Pixel scores sorted by class; weights (P,): what each positive pixel adds to the mean overlap (they sum to 1).

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
    return pro_of(split_pixels(maps, masks), fpr_limit)


def check_limit(fpr_limit: float) -> None:
    if not 0 < fpr_limit <= 1:
        raise InputError(f"fpr_limit must lie in (0, 1], got {fpr_limit}")


def split_pixels(maps: Arrays, masks: Arrays, inside: Sequence[np.ndarray] | None = None) -> PixelScores:
    """Maps and masks of a test set as sorted scores with region weights; holds one copy of the scores, in their type.

    inside: bool, like the masks: the pixels that count; None: all.
    """
    values, marks = _images("maps", maps), _images("masks", masks)
    check_pairs(("maps", values), ("masks", marks))
    return split_streamed(values, [as_bool("masks", mark) for mark in marks], inside, score_type("maps", values))


def split_streamed(
    maps: Iterable[np.ndarray], marks: Sequence[np.ndarray], inside: Sequence[np.ndarray] | None, kind: np.dtype
) -> PixelScores:
    """As `split_pixels`, of maps of type `kind` that are made one by one, so that not all are held beside the scores."""
    counted = [None] * len(marks) if inside is None else list(inside)
    marks = [mark if one is None else mark & one for mark, one in zip(marks, counted, strict=True)]
    positive = [int(np.count_nonzero(mark)) for mark in marks]
    good = [mark.size if one is None else int(np.count_nonzero(one)) for mark, one in zip(marks, counted, strict=True)]
    negatives = np.empty(sum(good) - sum(positive), kind)
    positives, weights = np.empty(sum(positive), kind), np.empty(sum(positive), np.float64)
    low = high = regions = 0
    for value, mark, count, size, one in zip(maps, marks, positive, good, counted, strict=True):
        if count == 0 and one is None:
            negatives[low : low + size] = value.ravel()
        else:
            negatives[low : low + size - count] = value[~mark if one is None else one & ~mark]
        if count:
            region, found = label_regions(mark)
            positives[high : high + count] = value[mark]
            weights[high : high + count] = (1 / np.bincount(region, minlength=found))[region]
            regions += found
        low, high = low + size - count, high + count
    negatives.sort()
    order = positives.argsort(kind="stable")
    positives = positives[order]
    weights = weights[order] / max(1, regions)
    for part in (negatives, positives):
        if kind.kind == "f" and len(part) and np.isnan(part[-1]):  # NaN sorts last
            raise InputError("maps must not hold NaN")
    return PixelScores(negatives, positives, weights, regions)


def _images(argument: str, values: Arrays) -> list[np.ndarray]:
    found = [image for array in as_arrays(argument, values) for image in (array if array.ndim == 3 else [array])]
    for image in found:
        if image.ndim != 2:
            raise InputError(f"{argument} must be images (H, W) or stacks (N, H, W), got shape {image.shape}")
    return found


def pro_of(data: PixelScores, fpr_limit: float = 0.3) -> MetricValue:
    """`pro` of pixels already sorted."""
    if data.regions == 0:
        return MetricValue.undefined("no defect region: every mask is empty")
    if len(data.negatives) == 0:
        return MetricValue.undefined("no defect-free pixel: the false-positive rate is undefined")
    normal = len(data.negatives)
    area = 0.0
    for first, values, _ in data.groups():
        end = int(np.searchsorted(data.positives, values[-1], side="right"))
        weight = np.add.reduceat(data.weights[:end], first)  # each sum ends where the next value begins
        before = (normal - np.searchsorted(data.negatives, values, side="right")) / normal
        at = (normal - np.searchsorted(data.negatives, values, side="left")) / normal
        area += float((weight * _area_of_ramp(before, at, fpr_limit)).sum())
    return MetricValue(area / fpr_limit)


def _area_of_ramp(before: np.ndarray, at: np.ndarray, limit: float) -> np.ndarray:
    """Area from 0 to limit under what is 0 up to `before`, 1 from `at` on, and linear between."""
    cut = np.clip(limit - before, 0, None)
    rise = np.minimum(at - before, cut)
    width = np.where(at > before, at - before, 1)
    return np.where(at > before, rise * rise / (2 * width), 0) + np.clip(limit - at, 0, None)


def pro_curve(data: PixelScores, points: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At most about `points` exact points of the PRO curve for drawing: thresholds descending, FPR, mean overlap."""
    thresholds = curve_thresholds(data, points)
    total = np.concatenate([[0.0], np.cumsum(data.weights)])
    return (
        thresholds,
        1 - np.searchsorted(data.negatives, thresholds, side="left") / len(data.negatives),
        total[-1] - total[np.searchsorted(data.positives, thresholds, side="left")],
    )
