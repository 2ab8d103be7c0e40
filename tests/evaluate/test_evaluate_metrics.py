"""The metrics against scikit-learn, and against the definitions written out slowly, one threshold at a time."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from fastspade.errors import DtypeError, InputError
from fastspade.evaluate import average_precision, f1_max, pro, roc_auc
from fastspade.evaluate.arrays import counts_of
from fastspade.evaluate.metrics import f1_max_of, roc_curve
from fastspade.evaluate.pro import count_pixels, pixel_counts, pro_curve, pro_of
from fastspade.evaluate.regions import label_regions


def slow_pro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """The definition: a threshold for every distinct score, one after the other; trapezoids; interpolated at the limit."""
    regions = []
    for values, mask in zip(maps, masks, strict=True):
        numbers, count = ndimage.label(mask != 0, structure=np.ones((3, 3)))
        regions += [values[numbers == i] for i in range(1, count + 1)]
    normal = np.concatenate([values[mask == 0] for values, mask in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in sorted({float(value) for values in maps for value in values.ravel()}, reverse=True):
        overlap = sum(float((region >= threshold).mean()) for region in regions) / len(regions)
        points.append((float((normal >= threshold).mean()), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit:
            y = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + y) / 2
    return area / limit


def slow_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    total = precision + recall
    return float(np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0).max())


samples = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.bool_, n).filter(lambda labels: labels.any() and not labels.all()),
        # Few distinct values make ties the rule.
        hnp.arrays(np.float32, n, elements=st.sampled_from([-2.0, -0.0, 0.0, 0.5, 1.0, 3.0, 1e30, -1e-30])),
    )
)


@given(samples)
@settings(max_examples=200, deadline=None)
def test_curves_with_ties_are_scikit_learns(sample):
    labels, scores = sample
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert f1_max(labels, scores) == pytest.approx(slow_f1(labels, scores), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.uint8])
def test_every_score_type_and_list_of_differing_sizes(dtype):
    random = np.random.default_rng(3)
    shapes = [(40, 50), (7, 9), (31, 1)]
    labels = [random.random(shape) < 0.2 for shape in shapes]
    scores = [(random.normal(60, 20, shape) + 10 * mark).clip(0, 255).astype(dtype) for shape, mark in zip(shapes, labels)]
    flat = np.concatenate([mark.ravel() for mark in labels]), np.concatenate([one.ravel() for one in scores])
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(*flat), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(*flat), abs=1e-12)
    assert f1_max([torch.from_numpy(one) for one in labels], [torch.from_numpy(one) for one in scores]) == pytest.approx(
        slow_f1(*flat), abs=1e-12
    )


def test_more_negatives_than_one_block(monkeypatch):
    monkeypatch.setattr("fastspade.evaluate.arrays.BLOCK", 7)
    random = np.random.default_rng(0)
    labels, scores = random.random((20, 20, 5)) < 0.5, random.integers(0, 40, (20, 20, 5)).astype(np.float32)
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels.ravel(), scores.ravel()), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels.ravel(), scores.ravel()))
    assert f1_max(labels, scores) == pytest.approx(slow_f1(labels.ravel(), scores.ravel()), abs=1e-12)
    assert pro(scores, labels, 0.4) == pytest.approx(slow_pro(list(scores), list(labels), 0.4), abs=1e-12)


def test_large_scores_keep_their_order():
    """Squared distances lie far beyond [0, 1], and neighbouring float32 values differ: nothing may saturate or round."""
    values = np.nextafter(np.float32(5e4), np.float32(np.inf), dtype=np.float32)
    assert roc_auc([0, 1], np.array([5e4, values], dtype=np.float32)) == 1.0
    assert roc_auc([0, 1], np.array([1.0, 1.0 + 2**-50])) == 1.0  # float64 stays float64


@pytest.mark.parametrize("metric", [roc_auc, average_precision, f1_max])
def test_one_class_is_nan_with_a_reason(metric):
    for labels, word in (([0, 0], "no defect"), ([1, 1], "no normal")):
        value = metric(labels, [0.1, 0.2])
        assert math.isnan(value) and word in value.reason
    defined = metric([0, 1], [0.1, 0.2])
    assert defined == 1.0 and defined.reason == ""
    assert pickle.loads(pickle.dumps(value)).reason == value.reason


def test_the_f1_threshold_reaches_the_f1():
    random = np.random.default_rng(1)
    labels, scores = random.random(300) < 0.3, random.normal(size=300)
    scores[labels] += 1
    best, threshold = f1_max_of(counts_of(labels, scores))
    found = scores >= threshold
    assert 2 * (found & labels).sum() / (found.sum() + labels.sum()) == pytest.approx(best)


@pytest.mark.slow
def test_metrics_are_reached_from_the_package_alone():
    code = "import fastspade; print(fastspade.evaluate.roc_auc([0, 1, 1], [0.1, 0.2, 0.05]))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "0.5"


# -- regions and PRO


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
@settings(max_examples=300, deadline=None)
def test_regions_are_scipys_eight_connected(mask):
    wanted, count = ndimage.label(mask, structure=np.ones((3, 3)))
    found, number = label_regions(mask)
    assert number == count
    pairs = set(zip(found.tolist(), wanted[mask].tolist()))
    assert len(pairs) == count and all(region > 0 for _, region in pairs)


@pytest.mark.parametrize("density", [0.02, 0.3, 0.41, 0.6])
def test_regions_of_a_large_noisy_mask(density):
    mask = np.random.default_rng(5).random((300, 257)) < density
    wanted, count = ndimage.label(mask, structure=np.ones((3, 3)))
    found, number = label_regions(mask)
    assert number == count and len(set(zip(found.tolist(), wanted[mask].tolist()))) == count


def test_a_spiral_is_one_region():
    side = 41
    mask = np.zeros((side, side), dtype=bool)
    low, high = 0, side - 1
    while low < high:
        mask[low, low : high + 1] = mask[low : high + 1, high] = mask[high, low : high + 1] = True
        mask[low + 2 : high + 1, low] = True
        if low + 2 <= high:
            mask[low + 2, low : low + 3] = True
        low, high = low + 2, high - 2
    assert label_regions(mask)[1] == ndimage.label(mask, structure=np.ones((3, 3)))[1] == 1


images = st.lists(
    st.tuples(st.integers(2, 7), st.integers(2, 7)).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0, 1.5, 2.0, 900.0])), hnp.arrays(np.bool_, shape)
        )
    ),
    min_size=1,
    max_size=4,
).filter(lambda images: any(mask.any() for _, mask in images) and any(not mask.all() for _, mask in images))


@given(images, st.sampled_from([0.05, 0.3, 0.77, 1.0]))
@settings(max_examples=200, deadline=None)
def test_pro_is_the_definition(images, limit):
    maps, masks = [values for values, _ in images], [mask for _, mask in images]
    assert pro(maps, masks, limit) == pytest.approx(slow_pro(maps, masks, limit), abs=1e-9)


def test_pro_worked_by_hand():
    """Two regions of 1 and 4 pixels, 10 normal pixels. Scores without ties."""
    mask = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]])
    values = np.array([[99.0, 1, 2, 3, 4], [5, 6, 7, 98, 97], [8, 9, 10, 9.5, 8.5]])
    # Overlap 0.5 + 0.25 before any false positive; 10 at FPR 0.1; then 9.5 adds 0.125; 9 at 0.2; 8.5 adds the rest; 8 at 0.3.
    assert pro(values, mask, 0.3) == pytest.approx((0.75 * 0.1 + 0.875 * 0.1 + 1.0 * 0.1) / 0.3)


def test_each_region_weighs_the_same_and_touching_corners_join():
    small, large = np.zeros((12, 12)), np.zeros((12, 12))
    mask = np.zeros((12, 12), dtype=bool)
    mask[0, 0], mask[4:10, 4:10] = True, True
    small[0, 0], large[4:10, 4:10] = 1.0, 1.0
    assert pro(small, mask, 0.3) == pytest.approx(pro(large, mask, 0.3))
    mask[3, 3] = True  # touches the square at its corner only
    assert pixel_counts(small, mask).regions == 2


def test_undefined_pro_is_nan_with_a_reason():
    empty = pro([np.ones((3, 3))], [np.zeros((3, 3))])
    full = pro([np.ones((3, 3))], [np.ones((3, 3))])
    assert math.isnan(empty) and "no defect region" in empty.reason
    assert math.isnan(full) and "no defect-free pixel" in full.reason


def test_drawn_curves_have_the_area_of_the_metric():
    random = np.random.default_rng(2)
    masks = np.zeros((4, 60, 60), dtype=bool)
    masks[:3, 10:30, 20:25] = masks[1, 40:50, 40:50] = True
    maps = (random.normal(size=masks.shape) + masks).astype(np.float32)
    data = pixel_counts(maps, masks)
    fpr, tpr = roc_curve(data, 4000)
    assert np.trapezoid(tpr, fpr) == pytest.approx(roc_auc(masks, maps), abs=2e-3)
    fpr, overlap = pro_curve(data, 4000)
    assert (np.diff(fpr) >= 0).all() and (np.diff(overlap) >= -1e-12).all() and overlap[-1] == pytest.approx(1)
    assert np.trapezoid(overlap, fpr) == pytest.approx(pro_of(data, 1.0), abs=2e-3)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: roc_auc([0, 1], [0.1, float("nan")]), InputError, "scores"),
        (lambda: roc_auc([0, 1, 1], [0.1, 0.2]), InputError, "labels and scores"),
        (lambda: roc_auc("01", object()), DtypeError, "numbers|scores"),
        (lambda: pro(np.ones((2, 3)), np.ones((3, 2))), InputError, "maps and masks"),
        (lambda: pro(np.ones((2, 2)), np.eye(2), 0), InputError, "fpr_limit"),
        (lambda: pro(np.full((2, 2), np.nan), np.eye(2)), InputError, "maps must not hold NaN"),
        (lambda: pro([np.ones(3)], [np.ones(3)]), InputError, "images"),
    ],
)
def test_mistakes_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


class Column:
    """As a Series is: no sequence, but an array for whoever asks."""

    def __init__(self, values) -> None:
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.values


@pytest.mark.parametrize(
    "kind", [Column, lambda values: np.array(values, dtype=object), tuple, lambda values: dict(enumerate(values)).values()]
)
@pytest.mark.parametrize("labels", [[0, 1, 1], [False, True, True]])
def test_labels_and_scores_may_be_whatever_gives_an_array(kind, labels):
    assert roc_auc(kind(labels), kind([0.1, 0.2, 0.3])) == 1.0
    assert roc_auc([kind(labels), kind(labels)], [kind([0.3, 0.2, 0.1])] * 2) == 0.0


def test_memory_grows_with_the_defects_and_not_with_the_maps(monkeypatch):
    monkeypatch.setattr("fastspade.evaluate.arrays.BLOCK", 1 << 16)
    mask = np.zeros((512, 512), dtype=bool)
    mask[:20, :20] = True
    tracemalloc.start()
    try:
        data = count_pixels(
            lambda i: np.random.default_rng(i).random((512, 512), dtype=np.float32), [mask] * 40, None, np.dtype(np.float32)
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert data.negatives == 40 * (512 * 512 - 400) and peak < 10 * 2**20 < 40 * 2**20  # of a map: 1 MiB
