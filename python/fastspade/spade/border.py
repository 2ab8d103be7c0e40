"""What is left of the bright border once images are continued by reflection: how much, and maps without it.

A border's features are rarer than an inside's whatever stands around them, so that good images' maps rise towards the border.
How far is measured by fit: some normal images are mirrored left to right, which makes good images that the bank does not hold
(none of their near-duplicates is in it), and matched; their maps' mean at every distance from the border,
over that of the inside, is the profile. Maps are divided by it where it is above 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from fastspade.errors import ModelFileError

DEPTH = 4  # the profile reaches a side's length over this far inside


def profile_of(cells: torch.Tensor) -> torch.Tensor:
    """Good images' maps by cell (n, h, w) -> (d,) float32: at distances of 0, 1, ... cells from the border, 1 or more."""
    distance = _distance((cells.shape[1], cells.shape[2]), cells.device)
    depth = max(1, min(cells.shape[1:]) // DEPTH)
    mean = cells.double().mean(dim=0)
    inside = mean[distance >= depth]
    if len(inside) == 0 or float(inside.mean()) <= 0:
        return torch.ones(1)
    rings = torch.stack([mean[distance == step].mean() for step in range(depth)])
    return (rings / inside.mean()).clamp(min=1).float().cpu()


def divisor(profile: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """What maps of `size` (H, W) over a grid (h, w) are divided by, (H, W) float32."""
    padded = torch.cat([profile, torch.ones(1)])
    cells = padded[_distance(grid, profile.device).clamp(max=len(profile))]
    return F.interpolate(cells[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def as_profile(values: Any) -> torch.Tensor:
    """The profile of a model file. Raises ModelFileError where it is not usable."""
    good = (
        isinstance(values, list)
        and values
        and all(type(one) in (int, float) and math.isfinite(one) and one >= 1 for one in values)
    )
    if not good:
        raise ModelFileError("path: the model's border must be numbers of 1 or more")
    return torch.tensor(values, dtype=torch.float32)


def _distance(grid: tuple[int, int], device: torch.device) -> torch.Tensor:
    """(h, w) int64: cells between each and the nearest border."""
    rows, columns = (torch.minimum(torch.arange(side), side - 1 - torch.arange(side)) for side in grid)
    return torch.minimum(rows[:, None], columns).to(device)
