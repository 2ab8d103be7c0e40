"""A tiny backbone of our own, small pictures and a Spade over both: what most tests are made with."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from fastspade import Spade

LAYERS = ["first", "second", "third"]


class TinyNet(nn.Module):
    """Three strided convolutions: levels at strides 4, 8 and 16, like the real backbones', in a millisecond."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 7, stride=4, padding=3), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(images)))


def picture(seed: int, height: int = 64, width: int = 64) -> Image.Image:
    """A seeded picture with some structure."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray((random.random((8, 8, 3)) * 255).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def tiny_spade(**options) -> Spade:
    """An unfitted Spade over TinyNet at 64 pixels."""
    settings = dict(preset="paper", k=3, resize=64, crop=64, sigma=1.0, device="cpu", progress=False, batch_size=4) | options
    return Spade(TinyNet(), layers=LAYERS, **settings)


TEST = [picture(100), picture(101)]


def assert_same_bits(a: Spade, b: Spade) -> None:
    """Same features, and same scores, maps and neighbours."""
    assert torch.equal(a.bank.embeddings, b.bank.embeddings)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(a.bank.pyramid, b.bank.pyramid, strict=True))
    mine, theirs = a.score(TEST), b.score(TEST)
    for what in ("image_scores", "anomaly_maps", "neighbors", "neighbor_distances", "matched_image", "matched_y", "matched_x"):
        assert np.array_equal(getattr(mine, what), getattr(theirs, what)), what
