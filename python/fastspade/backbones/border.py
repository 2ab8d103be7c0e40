"""The picture's border: continued by reflection for the network, whose extra cells are cut off again.

A convolutional network pads with zeros, so that features along a picture's border are unlike all others: its map is bright
there whether the part is good or not. Given the picture with its surroundings mirrored, the network meets the zeros further
out. Networks that see patches one by one (vision transformers) pad nothing and are left alone, as are those that take
pictures of one size only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

__all__ = ["MARGIN", "continued", "cut"]

MARGIN = 32  # pixels; the strides of the usual networks divide it, so that their cells lie where they lie without it

Network = Callable[[torch.Tensor], tuple[torch.Tensor, list[torch.Tensor]]]


def continued(network: Network, images: torch.Tensor, margin: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What `network` returns for images (B, 3, H, W) with `margin` mirrored pixels around them: the embedding of all that, and
    the levels without the cells around the picture."""
    if margin == 0:
        return network(images)
    height, width = images.shape[-2:]
    rows, columns = (_mirrored(side, margin).to(images.device) for side in (height, width))
    embeddings, pyramid = network(images.index_select(2, rows).index_select(3, columns))
    size = (height + 2 * margin, width + 2 * margin)
    return embeddings, [cut(level, (margin, margin, height, width), size) for level in pyramid]


def _mirrored(side: int, margin: int) -> torch.Tensor:
    """(side + 2 margin,) int64: which pixel stands at each place. The pixel at the end is not repeated (c b | a b c | b a)."""
    period = max(1, 2 * (side - 1))
    place = torch.arange(-margin, side + margin) % period
    return torch.minimum(place, period - place) if side > 1 else torch.zeros_like(place)


def cut(level: torch.Tensor, window: tuple[int, int, int, int], size: tuple[int, int]) -> torch.Tensor:
    """The cells of a level (B, C, h, w) of images of `size` (H, W) in a window of top, left, height and width, in pixels."""
    top, left, height, width = window
    for axis, start, extent, side in ((2, top, height, size[0]), (3, left, width, size[1])):
        share = level.shape[axis] / side  # one over the stride
        level = level.narrow(axis, round(start * share), math.ceil(extent * share - 1e-6))
    return level.contiguous()
