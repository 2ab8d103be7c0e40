"""Evaluation as the field does it: metrics, dataset layouts, the runner and the report."""

from __future__ import annotations

from fastspade.evaluate.arrays import MetricValue
from fastspade.evaluate.metrics import average_precision, f1_max, roc_auc
from fastspade.evaluate.pro import pro

__all__ = ["MetricValue", "average_precision", "f1_max", "pro", "roc_auc"]
