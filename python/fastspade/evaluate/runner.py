"""Fit, calibrate, score and measure one category after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fastspade import checks
from fastspade.errors import InputError
from fastspade.evaluate.arrays import MetricValue, counts_of
from fastspade.evaluate.category import Category, TestImage
from fastspade.evaluate.dataset import load_mask
from fastspade.evaluate.metrics import average_precision_of, f1_max_of, roc_auc_of, roc_curve
from fastspade.evaluate.pro import check_limit, count_pixels, pro_curve, pro_of
from fastspade.evaluate.protocols import PROTOCOLS, crop_mask, placed_map
from fastspade.maps import place_in_image
from fastspade.spade import Spade
from fastspade.spade.result import ScoredImage
from fastspade.spade.threshold import Threshold

IMAGE_METRICS = ("image_roc_auc", "image_average_precision", "image_f1_max")
PIXEL_METRICS = ("pixel_roc_auc", "pixel_average_precision", "pixel_f1_max", "pro")
Curve = dict[str, list[float]]  # "x", "y"


@dataclass
class ScoredTest:
    """A labelled test image with its score; scored.anomaly_map covers the crop. mask: (H, W) bool at the image's size."""

    test: TestImage
    scored: ScoredImage
    mask: np.ndarray | None


@dataclass
class CategoryResult:
    """Everything measured of one category.

    image_metrics: by name. pixel_metrics: by protocol, then by name. Values are MetricValue, NaN with a reason where
    undefined. image_curve, pixel_curves: ROC and PRO curves for drawing. seconds: of "fit", "calibrate", "score" and
    "metrics". threshold: from the training images. false_positive_rate, true_positive_rate: of its decisions on test
    images.
    """

    name: str
    train: int
    good: int
    defects: int
    threshold: Threshold | None
    image_metrics: dict[str, MetricValue]
    false_positive_rate: MetricValue
    true_positive_rate: MetricValue
    pixel_metrics: dict[str, dict[str, MetricValue]] = field(default_factory=dict)
    image_curve: Curve = field(default_factory=dict)
    pixel_curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def evaluate_category(
    category: Category,
    model: Spade,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    target_fpr: float | None = 0.01,
    pixel_target_fpr: float = 0.01,
    fpr_limit: float = 0.3,
    inside_roi: bool = False,
) -> tuple[CategoryResult, list[ScoredTest]]:
    """Run one category with `model`, which is fitted anew and must have keep_crop set.

    protocols: of "paper" and "official". target_fpr, pixel_target_fpr: of the threshold (None: no threshold).
    fpr_limit: up to which PRO is integrated. inside_roi: pixels outside the model's region of interest do not count.
    """
    check_limit(fpr_limit)
    checks.share("target_fpr", 0.0 if target_fpr is None else target_fpr)
    checks.share("pixel_target_fpr", pixel_target_fpr)
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise InputError(f"protocols must be among {', '.join(map(repr, PROTOCOLS))}, got {protocol!r}")
    if inside_roi and model.roi is None:
        raise InputError("inside_roi needs a model with a roi")
    if not model.keep_crop:
        raise InputError("model must have keep_crop=True, so that both protocols can be measured")
    seconds = {}
    start = time.perf_counter()
    model.fit([str(path) for path in category.train])
    seconds["fit"] = time.perf_counter() - start
    if target_fpr is not None and len(category.train) > 1:
        start = time.perf_counter()
        model.calibrate(target_fpr, pixel_target_fpr)
        seconds["calibrate"] = time.perf_counter() - start
    start = time.perf_counter()
    found = model.score([str(image.path) for image in category.test])
    seconds["score"] = time.perf_counter() - start
    start = time.perf_counter()
    tests = [
        ScoredTest(image, scored, _mask(image, scored, category.has_masks, model.max_pixels))
        for image, scored in zip(category.test, found.images, strict=True)
    ]
    result = _measure_images(category, tests, model.threshold)
    for protocol in protocols:
        result.pixel_metrics[protocol], result.pixel_curves[protocol] = _measure_pixels(tests, protocol, fpr_limit, inside_roi)
    seconds["metrics"] = time.perf_counter() - start
    result.seconds = seconds
    return result, tests


def _mask(image: TestImage, scored: ScoredImage, has_masks: bool, max_pixels: int | None) -> np.ndarray | None:
    if not has_masks:
        return None
    return np.zeros(scored.size, dtype=bool) if image.mask is None else load_mask(image.mask, max_pixels)


def _measure_images(category: Category, tests: list[ScoredTest], threshold: Threshold | None) -> CategoryResult:
    labels = np.array([one.test.defect for one in tests], dtype=bool)
    scores = np.array([one.scored.score for one in tests])
    data = counts_of(labels, scores)
    above = scores > threshold.image if threshold else np.zeros(len(scores), dtype=bool)

    def rate(chosen: np.ndarray, what: str) -> MetricValue:
        if threshold is None:
            return MetricValue.undefined("no threshold was calibrated")
        return MetricValue(chosen.mean()) if len(chosen) else MetricValue.undefined(f"no {what} test image")

    return CategoryResult(
        name=category.name,
        train=len(category.train),
        good=int((~labels).sum()),
        defects=int(labels.sum()),
        threshold=threshold,
        image_metrics={
            "image_roc_auc": roc_auc_of(data, "image"),
            "image_average_precision": average_precision_of(data, "image"),
            "image_f1_max": f1_max_of(data, "image")[0],
        },
        false_positive_rate=rate(above[~labels], "good"),
        true_positive_rate=rate(above[labels], "defect"),
        image_curve={} if data.undefined("image") else _curve(*roc_curve(data)),
    )


def _measure_pixels(
    tests: list[ScoredTest], protocol: str, fpr_limit: float, inside_roi: bool
) -> tuple[dict[str, MetricValue], dict[str, Curve]]:
    if any(one.mask is None for one in tests):
        return {name: MetricValue.undefined("the dataset has no ground-truth masks") for name in PIXEL_METRICS}, {}
    masks = [compared_mask(one, protocol) for one in tests]
    inside = [_counted(one, mask.shape) for one, mask in zip(tests, masks, strict=True)] if inside_roi else None
    data = count_pixels(lambda i: compared_map(tests[i], protocol), masks, inside, np.dtype(np.float32))
    metrics = {
        "pixel_roc_auc": roc_auc_of(data, "pixel"),
        "pixel_average_precision": average_precision_of(data, "pixel"),
        "pixel_f1_max": f1_max_of(data, "pixel")[0],
        "pro": pro_of(data, fpr_limit),
    }
    if data.undefined("pixel"):
        return metrics, {}
    return metrics, {"roc": _curve(*roc_curve(data)), "pro": _curve(*pro_curve(data))}


def compared_map(one: ScoredTest, protocol: str) -> np.ndarray:
    """The map that a protocol compares, (H, W) float32."""
    scored = one.scored
    return scored.anomaly_map if protocol == "paper" else placed_map(scored.anomaly_map, scored.crop, scored.size)


def compared_mask(one: ScoredTest, protocol: str) -> np.ndarray:
    """The mask that belongs to it, (H, W) bool. Raises InputError where the dataset gives none."""
    scored = one.scored
    if one.mask is None:
        raise InputError(f"{scored.name} has no ground-truth mask")
    return crop_mask(one.mask, scored.crop, scored.anomaly_map.shape) if protocol == "paper" else one.mask


def _counted(one: ScoredTest, size: Sequence[int]) -> np.ndarray:
    """(size) bool: the pixels in the region of interest, of the crop or of the whole image."""
    scored = one.scored
    if scored.roi is None:
        return np.ones(size, dtype=bool)
    if scored.roi.shape == tuple(size):
        return scored.roi
    placed: np.ndarray = place_in_image(scored.roi.astype(np.float32), scored.crop, scored.size, border="zero").numpy() >= 0.5
    return placed


def _curve(x: np.ndarray, y: np.ndarray) -> Curve:
    return {"x": [0.0, *np.round(x, 6).tolist()], "y": [0.0, *np.round(y, 6).tolist()]}


def mean_of(values: Sequence[MetricValue]) -> MetricValue:
    """Mean over the categories where the metric is defined; NaN, with a reason, where it is nowhere."""
    known = [value for value in values if value == value]
    if not known:
        return MetricValue.undefined(values[0].reason if values else "no category")
    return MetricValue(
        float(np.mean(known)), "" if len(known) == len(values) else f"mean of {len(known)} of {len(values)} categories"
    )
