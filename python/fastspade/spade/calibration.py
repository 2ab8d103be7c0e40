"""Thresholds for decisions and masks from the normal images alone: what their own leave-one-out scores and maps reach."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np

from fastspade import checks
from fastspade.errors import InputError
from fastspade.spade.duplicates import tell_duplicates, without_duplicates
from fastspade.spade.fitted import FittedModel
from fastspade.spade.leave_one_out import judged, left_out_scores, picture_scores
from fastspade.spade.threshold import FEW, LargestValues, Threshold, percent, tail_quantile


def calibrated(model: FittedModel, target_fpr: float, pixel_target_fpr: float) -> Threshold:
    """As Spade.calibrate says."""
    bank = model.fitted_bank().snapshot
    checks.share("target_fpr", target_fpr)
    checks.share("pixel_target_fpr", pixel_target_fpr)
    if len(bank) < 2:
        raise InputError("calibrate needs at least 2 normal images, got 1")
    whole, bank = bank, without_duplicates(bank, "thresholds are calibrated")
    if len(bank) < 2:
        raise InputError(f"calibrate needs at least 2 different normal images, but all {len(whole)} are the same")
    chosen = judged(model, bank)
    pixels = LargestValues(len(chosen) * math.prod(model.input_size), pixel_target_fpr)
    scores = left_out_scores(model, bank, chosen, lambda found: pixels.add(found.smoothed.numpy()))
    if model.ceiling is not None:
        model.ceiling = replace(model.ceiling, images=len(whole))
    image, pixel = tail_quantile(picture_scores(model, bank, chosen, scores), target_fpr), pixels.quantile()
    threshold = Threshold(image, pixel, target_fpr, pixel_target_fpr, len(whole), whole.next_id)
    if len(bank) < FEW:
        low, high = map(percent, threshold.false_alarm_range())
        warnings.warn(
            f"there are {len(bank)} normal images: {low} to {high} of new good ones will be called defects (target "
            f"{percent(target_fpr)}, in 9 of 10 cases); {FEW} or more make decisions surer",
            stacklevel=4,
        )
    return threshold


def normal_scores(model: FittedModel) -> np.ndarray:
    """As Spade.normal_scores says."""
    bank = model.fitted_bank().snapshot
    if len(bank) < 2:
        raise InputError("normal scores need at least 2 normal images, got 1")
    tell_duplicates(bank, "they match each other, so that their own scores are low")
    chosen = judged(model, bank, every=True)
    return picture_scores(model, bank, chosen, left_out_scores(model, bank, chosen))
