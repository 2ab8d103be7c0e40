"""ROC-AUC, average precision and the best F1 score: exact, every distinct score a threshold.

All three follow from one sort: at a threshold t, true positives and false positives are positions of t in the sorted
positive and negative scores. Labels are 1 for defect; a higher score means more anomalous. Labels and scores may be
arrays of any equal shape, tensors, or lists of arrays of differing sizes (one per image), which are pooled.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastspade.evaluate.arrays import Arrays, MetricValue, SortedScores, split


def roc_auc(labels: Arrays, scores: Arrays) -> MetricValue:
    """Area under the ROC curve, from 0 to 1: the probability that a defect scores higher than a normal one, ties half.

    NaN, with a reason, where there is only one class. Raises InputError for NaN scores or shapes that differ.
    """
    return roc_auc_of(split(labels, scores))


def average_precision(labels: Arrays, scores: Arrays) -> MetricValue:
    """Area under the precision-recall steps: sum over thresholds of (gain in recall) * precision, from 0 to 1.

    NaN, with a reason, where there is only one class. Raises as roc_auc.
    """
    return average_precision_of(split(labels, scores))


def f1_max(labels: Arrays, scores: Arrays) -> MetricValue:
    """The largest F1 score, 2 TP / (2 TP + FP + FN), over all thresholds, from 0 to 1.

    NaN, with a reason, where there is only one class. Raises as roc_auc.
    """
    return f1_max_of(split(labels, scores))[0]


def roc_auc_of(data: SortedScores, what: str = "sample") -> MetricValue:
    """`roc_auc` of scores already sorted. what: the word for one of them in the reason of a NaN."""
    reason = data.undefined(what)
    if reason:
        return MetricValue.undefined(reason)
    twice = 0  # twice the pairs won: an integer, so nothing is rounded
    for _, values, counts in data.groups():
        below = np.searchsorted(data.negatives, values, side="left")
        up_to = np.searchsorted(data.negatives, values, side="right")
        twice += int((counts * (below + up_to)).sum())
    return MetricValue(twice / (2 * len(data.negatives) * len(data.positives)))


def average_precision_of(data: SortedScores, what: str = "sample") -> MetricValue:
    """`average_precision` of scores already sorted. Recall only grows at positive scores, so only these are visited."""
    reason = data.undefined(what)
    if reason:
        return MetricValue.undefined(reason)
    area = 0.0
    for true, false, gained in _counts(data):
        area += float((gained * (true / (true + false))).sum())
    return MetricValue(area / len(data.positives))


def f1_max_of(data: SortedScores, what: str = "sample") -> tuple[MetricValue, float]:
    """`f1_max` of scores already sorted, and the threshold (score >= threshold is a defect) that reaches it.

    Between two positive scores a lower threshold only adds false positives, so the maximum lies at a positive score.
    """
    reason = data.undefined(what)
    if reason:
        return MetricValue.undefined(reason), float("nan")
    best, at = -1.0, 0
    total = len(data.positives)
    for true, false, _ in _counts(data):
        f1 = 2 * true / (true + false + total)
        i = int(f1.argmax())
        if f1[i] > best:
            best, at = float(f1[i]), total - int(true[i])
    return MetricValue(best), float(data.positives[at])


def _counts(data: SortedScores) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """At every distinct positive score as a threshold: true positives, false positives, positives of that score."""
    for first, values, counts in data.groups():
        true = len(data.positives) - first
        false = len(data.negatives) - np.searchsorted(data.negatives, values, side="left")
        yield true, false, counts


def roc_curve(data: SortedScores, points: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At most about `points` exact points of the ROC curve for drawing: thresholds descending, FPR, TPR, ends included."""
    thresholds = curve_thresholds(data, points)
    return (
        thresholds,
        1 - np.searchsorted(data.negatives, thresholds, side="left") / len(data.negatives),
        1 - np.searchsorted(data.positives, thresholds, side="left") / len(data.positives),
    )


def curve_thresholds(data: SortedScores, points: int) -> np.ndarray:
    """Thresholds, descending, that are evenly spread over the ranks of both classes, and denser at low FPR."""
    chosen = []
    for part, spread in ((data.negatives, 2.0), (data.positives, 1.0)):
        share = 1 - np.linspace(0, 1, points // 2) ** spread
        chosen.append(part[np.rint(share * (len(part) - 1)).astype(np.int64)])
    return np.unique(np.concatenate(chosen))[::-1]
