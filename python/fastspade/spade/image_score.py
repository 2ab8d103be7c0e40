"""One number per image: from stage 1's distances or from the map; and PatchCore's re-weighted score.

PatchCore's (Roth et al., arXiv 2106.08265, eq. 6 and 7) is the worst pixel, re-weighted: s* is the distance of the pixel
farthest from its nearest gallery pixel m*. It is multiplied by one minus the soft-max weight of that distance among the
distances to m*'s own neighbours in the gallery: a match that is itself rare counts more. Not part of SPADE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F


def image_scores(kind: str, distances: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """(B,) float64. distances (B, k_image): squared, to the nearest normal images; maps (B, H, W). Higher is more anomalous.

    kind: "knn", the mean distance (SPADE, section 3.1); "max" of the map; "top1%", the mean of its highest hundredth. The others
    need more than these: see `reweighted_score` and `fastspade.spade.relative`.
    """
    if kind == "knn":
        return distances.double().mean(dim=1)
    if kind == "max":
        return maps.amax(dim=(1, 2)).double()
    count = max(1, maps.shape[1] * maps.shape[2] // 100)
    return maps.flatten(1).topk(count).values.double().mean(dim=1)


def reweighted_score(
    query: Sequence[torch.Tensor],
    gather: Callable[[torch.Tensor], list[torch.Tensor]],
    images: torch.Tensor,
    squared: torch.Tensor,
    nearest: torch.Tensor,
    *,
    upsample: str = "bilinear",
    neighbors: int = 9,
) -> float:
    """The re-weighted score of one image.

    query: its levels (C_l, H_l, W_l). gather: gives gallery images (n,) their levels (n, C_l, H_l, W_l). images: (K,) the
    gallery images used.
    squared, nearest: (H_1, W_1) squared distance to, and flat index of, each pixel's nearest gallery pixel.
    neighbors: how many of m*'s nearest gallery pixels, itself among them, form the soft-max (PatchCore's b).

    Reads every gallery pixel once: about as long as interpolating the K images takes.
    """
    height, width = squared.shape
    worst = int(squared.argmax())
    match = int(nearest.flatten()[worst])
    test = _descriptors([level[None] for level in query], upsample)[:, worst]
    image, place = divmod(match, height * width)
    center = _descriptors(gather(torch.tensor([image])), upsample)[:, place]
    to_center, to_test = [], []
    for i in images.tolist():
        pixels = _descriptors(gather(torch.tensor([i])), upsample)
        to_center.append((pixels - center[:, None]).square().sum(0))
        to_test.append((pixels - test[:, None]).square().sum(0))
    around = torch.cat(to_center)
    near = around.topk(min(neighbors, len(around)), largest=False).indices
    distance = squared.flatten()[worst].double().sqrt()
    others = torch.cat(to_test)[near].double().sqrt()
    weight = 1 - torch.exp(distance - torch.logsumexp(others, dim=0))
    # m* is among the others, but a rival at exactly its place may have pushed it out of the top: never below 0.
    return float(weight.clamp(min=0) * distance)


def _descriptors(levels: Sequence[torch.Tensor], upsample: str) -> torch.Tensor:
    """Levels (1, C_l, H_l, W_l) -> (sum of C_l, H_1 * W_1) float32."""
    size = levels[0].shape[-2:]
    options = {"align_corners": False} if upsample == "bilinear" else {}
    # One memory order, so that sums are bit-identical for levels of a network, a file, or another process.
    levels = [level.float().contiguous() for level in levels]
    brought = [
        level if level.shape[-2:] == size else F.interpolate(level, size=size, mode=upsample, **options) for level in levels
    ]
    return torch.cat(brought, dim=1)[0].flatten(1)
