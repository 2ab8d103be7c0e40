"""Float64 brute force: what the engines are checked against. Slow and memory-hungry on purpose.

Every level is interpolated to the finest one, all levels are concatenated, and every pair is compared by the direct
sum of squared differences (SPADE, eq. 3). Nothing here shares code or algebra with the engines.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def descriptors(levels: Sequence[torch.Tensor], upsample: str = "bilinear") -> torch.Tensor:
    """Concatenate all levels at the finest resolution.

    levels: L tensors (B, C_l, H_l, W_l), finest first. Returns (B, H_1 * W_1, sum of C_l) float64.
    """
    size = levels[0].shape[-2:]
    options = {"align_corners": False} if upsample == "bilinear" else {}
    brought = [
        level.double() if level.shape[-2:] == size else F.interpolate(level.double(), size=size, mode=upsample, **options)
        for level in levels
    ]
    return torch.cat(brought, dim=1).flatten(2).transpose(1, 2).contiguous()


def _rounded(squared: torch.Tensor) -> torch.Tensor:
    """float64 with float32's digits, whatever its size."""
    digits, exponent = torch.frexp(squared)
    return torch.ldexp(digits.float().double(), exponent)


def _smallest(query: torch.Tensor, gallery: torch.Tensor, kappa: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(Q, D) against (G, D): the kappa smallest squared distances per row. Those that round to one float32 are ties, which go
    to the lower index."""
    distances = torch.empty(len(query), kappa, dtype=torch.float64)
    indices = torch.empty(len(query), kappa, dtype=torch.int64)
    for row, vector in enumerate(query):
        squared = (gallery - vector).square().sum(dim=1)
        # A stable sort keeps the order of equal values, which is the lower index first.
        places = torch.sort(_rounded(squared), stable=True).indices[:kappa]
        distances[row], indices[row] = squared[places], places
    return distances, indices


def knn(query: torch.Tensor, gallery: torch.Tensor, kappa: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(Q, D), (G, D) -> squared distances (Q, kappa) float64, ascending as float32, indices (Q, kappa) int64."""
    return _smallest(query.detach().cpu().double(), gallery.detach().cpu().double(), kappa)


def pyramid_knn(
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor],
    kappa: int,
    *,
    gallery_index: torch.Tensor | None = None,
    upsample: str = "bilinear",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The contract of `fastspade.pyramid_knn`, with distances (B, H_1, W_1, kappa) in float64."""
    height, width = query[0].shape[-2:]
    wanted = descriptors([level.detach().cpu() for level in query], upsample)
    stored = descriptors([level.detach().cpu() for level in gallery], upsample)
    pixels = stored.shape[1]
    distances, indices = [], []
    for b, vectors in enumerate(wanted):
        chosen = torch.arange(len(stored)) if gallery_index is None else gallery_index[b].detach().cpu()
        # Sorted images make position order and flat index order the same, so that ties fall to the lower index.
        chosen = chosen.sort().values
        found, places = _smallest(vectors, stored[chosen].flatten(0, 1), kappa)
        distances.append(found)
        indices.append(chosen[places // pixels] * pixels + places % pixels)
    shape = (len(wanted), height, width, kappa)
    return torch.stack(distances).reshape(shape), torch.stack(indices).reshape(shape)
