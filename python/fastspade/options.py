"""What the options of a Spade may be: checks that name the option, what it got and what it needs."""

from __future__ import annotations

import numpy as np
import torch

from fastspade.errors import DtypeError, InputError

IMAGE_SCORES = ("knn", "max", "top1%", "reweighted")
CHOICES = {"upsample": ("bilinear", "nearest"), "image_score": IMAGE_SCORES, "precision": ("exact", "fast")}


def check_numbers(**values: object) -> None:
    """Raises DtypeError or InputError unless each is a whole number, 1 or more."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise DtypeError(f"{name} must be an integer, got {type(value).__name__}")
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")


def check_limits(**values: object) -> None:
    """The same for those that may also be None: no limit."""
    check_numbers(**{name: value for name, value in values.items() if value is not None})


def check_crop(crop: int, resize: int) -> None:
    if crop > resize:
        raise InputError(f"crop must not exceed resize ({resize}), got {crop}")


def check_pixels(sigma: object, window: object) -> None:
    """Lengths in pixels of the crop."""
    if not _is_length(sigma):
        raise InputError(f"sigma must be a finite number of pixels, 0 or more, got {sigma!r}")
    if window is not None and not _is_length(window):
        raise InputError(f"window must be a finite number of pixels, 0 or more, or None; got {window!r}")


def _is_length(value: object) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value)) and value >= 0


def check_choices(**values: object) -> None:
    for name, value in values.items():
        if value not in CHOICES[name]:
            raise InputError(f"{name} must be one of {', '.join(map(repr, CHOICES[name]))}, got {value!r}")


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device named, or CUDA where this build and machine have it, else the CPU."""
    if device is not None:
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise InputError(f"device must be a torch device such as 'cpu' or 'cuda', got {device!r}") from error
    from fastspade.info import build_info

    return torch.device("cuda" if build_info()["cuda_architectures"] and torch.cuda.is_available() else "cpu")
