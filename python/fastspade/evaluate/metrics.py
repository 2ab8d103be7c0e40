"""ROC-AUC, average precision and the best F1 score: exact, every distinct score a threshold.

All three follow from the counts of true and false positives at every score of a defect (`fastspade.evaluate.arrays`). Labels are 1
for defect; a higher score means more anomalous. Labels and scores may be arrays of any equal shape, tensors, or lists of arrays of
differing sizes (one per image), which are pooled.
"""

from __future__ import annotations

import numpy as np

from fastspade.evaluate.arrays import Arrays, Counts, MetricValue, counts_of


def roc_auc(labels: Arrays, scores: Arrays) -> MetricValue:
    """Area under the ROC curve, from 0 to 1: the probability that a defect scores higher than a normal one, ties half.

    NaN, with a reason, where there is only one class. Raises InputError for NaN scores or shapes that differ.
    """
    return roc_auc_of(counts_of(labels, scores))


def average_precision(labels: Arrays, scores: Arrays) -> MetricValue:
    """Area under the precision-recall steps: sum over thresholds of (gain in recall) * precision, from 0 to 1.

    NaN, with a reason, where there is only one class. Raises as roc_auc.
    """
    return average_precision_of(counts_of(labels, scores))


def f1_max(labels: Arrays, scores: Arrays) -> MetricValue:
    """The largest F1 score, 2 TP / (2 TP + FP + FN), over all thresholds, from 0 to 1.

    NaN, with a reason, where there is only one class. Raises as roc_auc.
    """
    return f1_max_of(counts_of(labels, scores))[0]


def roc_auc_of(data: Counts, what: str = "sample") -> MetricValue:
    """`roc_auc` of counts. what: the word for one sample in the reason of a NaN."""
    reason = data.undefined(what)
    if reason:
        return MetricValue.undefined(reason)
    twice = int((data.positives * (data.below + data.up_to)).sum())  # twice the pairs won: an integer, so nothing is rounded
    return MetricValue(twice / (2 * data.negatives * int(data.positives.sum())))


def average_precision_of(data: Counts, what: str = "sample") -> MetricValue:
    """`average_precision` of counts. Recall only grows at positive scores, so only these are visited."""
    reason = data.undefined(what)
    if reason:
        return MetricValue.undefined(reason)
    true = data.true_positives()
    area = (data.positives * (true / (true + data.false_positives()))).sum()
    return MetricValue(float(area) / int(true[0]))


def f1_max_of(data: Counts, what: str = "sample") -> tuple[MetricValue, float]:
    """`f1_max` of counts, and the threshold (score >= threshold is a defect) that reaches it.

    Between two positive scores a lower threshold only adds false positives, so the maximum lies at a positive score.
    """
    reason = data.undefined(what)
    if reason:
        return MetricValue.undefined(reason), float("nan")
    true = data.true_positives()
    f1 = 2 * true / (true + data.false_positives() + true[0])
    best = int(f1.argmax())
    return MetricValue(float(f1[best])), float(data.values[best])


def roc_curve(data: Counts, points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """At most about `points` exact points of the ROC curve for drawing: FPR and TPR, ascending, ends included."""
    true = data.true_positives()
    return curve(data, true, true - data.positives, points)


def curve(data: Counts, at: np.ndarray, above: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (FPR, y) of a curve whose y is at[i] where value i is the threshold and above[i] where it lies just above, before
    both are divided by the highest. They are evenly spread over the scores of positives and over the FPR, denser where it is low."""
    share = np.linspace(0, 1, max(2, points // 4))
    rate = data.false_positives() / data.negatives  # descends
    by_rank, by_rate = np.searchsorted(-at, -share * at[0]), np.searchsorted(-rate, -(share**2))
    chosen = np.unique(np.concatenate([by_rank, by_rate]).clip(max=len(at) - 1))[::-1]
    x = np.stack([(data.negatives - data.up_to[chosen]) / data.negatives, rate[chosen]], axis=1).ravel()
    y = np.stack([above[chosen], at[chosen]], axis=1).ravel() / at[0]
    return np.append(x, 1.0), np.append(y, 1.0)
