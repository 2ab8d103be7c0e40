"""`score`: everything in one call."""

from __future__ import annotations

from typing import Any

from fastspade.spade import Result, Spade


def score(test_images: Any, normal_images: Any, *, skip_bad: bool = False, **options: Any) -> Result:
    """Find defects in `test_images`, given only `normal_images` (SPADE, arXiv 2005.02357).

    Both may be a path, folder, glob, PIL image, numpy (H, W, 3) uint8, a list of those, a tensor (N, 3, H, W) or a
    DataLoader. skip_bad: leave unreadable images out (they are listed in the result) instead of raising.
    options: those of `Spade`, e.g. backbone, k, kappa, sigma, device.

    Returns a `Result` with image_scores (N,), anomaly_maps (N, H, W) and neighbors (N, K).
    """
    return Spade(**options).fit(normal_images, skip_bad=skip_bad).score(test_images, skip_bad=skip_bad)
