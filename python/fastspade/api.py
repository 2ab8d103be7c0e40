"""`score`: everything in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastspade.spade import Result, Spade

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from fastspade.arguments import Images, Options
    from fastspade.backbones import Backbone


def score(
    test_images: Images,
    normal_images: Images,
    *,
    backbone: str | torch.nn.Module | Backbone = "wide_resnet50_2",
    skip_bad: bool = False,
    **options: Unpack[Options],
) -> Result:
    """Find defects in `test_images`, given only `normal_images` (SPADE, arXiv 2005.02357).

    Both may be a path, folder, glob, PIL image, numpy (H, W, 3) uint8, a list of those, a tensor (N, 3, H, W) or a
    DataLoader. skip_bad: leave unreadable images out (they are listed in the result) instead of raising.
    backbone, options: those of `Spade`, e.g. k, kappa, sigma, device.

    Returns a `Result` with image_scores (N,), anomaly_maps (N, H, W) and neighbors (N, K).
    """
    return Spade(backbone, **options).fit(normal_images, skip_bad=skip_bad).score(test_images, skip_bad=skip_bad)
