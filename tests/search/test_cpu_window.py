"""A search within a window, against float64 brute force: which levels are multiplied where, and what bounds leave, never shows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastspade.search import reference
from fastspade.search.cpu import search_cpu
from fastspade.search.validation import UPSAMPLES

SHAPES = {
    "square": ((24, 28, 28), (9, 14, 14), (12, 7, 7)),
    "wide": ((8, 8, 60), (9, 4, 30), (5, 2, 15)),
    "narrow": ((8, 60, 6), (9, 30, 3), (5, 15, 2)),
    "odd ratios": ((6, 23, 27), (17, 19, 12), (9, 5, 3)),
    "two levels": ((8, 24, 20), (6, 12, 10)),
    "five levels": ((30, 26, 21), (4, 13, 10), (3, 9, 9), (8, 3, 2), (6, 1, 1)),
    "one level": ((8, 20, 20),),
}
EXACT = ("square", "wide", "narrow", "two levels", "one level")  # weights and distances are the same in float32 and float64
RADII = [(0, 0), (0, 3), (3, 0), (2, 5), (70, 1)]


def smooth(images: int, shapes, seed: int) -> list[torch.Tensor]:
    """One scene, a little noise: most pixels of most images are ruled out. Values are multiples of 1/8 and often repeat."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for c, h, w in shapes:
        scene = torch.randn(1, c, 4, 4, generator=torch.Generator().manual_seed(c))
        scene = F.interpolate(2 * scene, size=(h, w), mode="bicubic")
        levels.append(((scene + 0.03 * torch.randn(images, c, h, w, generator=generator)) * 8).round() / 8)
    return levels


def all_distances(query, gallery, upsample: str) -> torch.Tensor:
    """Squared distances (P, N * P) float64 of one query image's pixels."""
    mine, stored = (reference.descriptors(levels, upsample) for levels in (query, gallery))
    return torch.stack([(pixel - stored).square().sum(-1).flatten() for pixel in mine[0]])


def within(squared: torch.Tensor, size: tuple[int, int], radius: tuple[int, int]) -> torch.Tensor:
    """The same, infinity outside the window."""
    height, width = size
    y, x = torch.arange(height * width) // width, torch.arange(height * width) % width
    near = ((y[:, None] - y).abs() <= radius[0]) & ((x[:, None] - x).abs() <= radius[1])
    return torch.where(near.repeat(1, squared.shape[1] // len(squared)), squared, torch.inf)


@pytest.mark.slow
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_a_window_gives_what_brute_force_gives(shapes, upsample):
    query, gallery = smooth(1, SHAPES[shapes], 1), smooth(4, SHAPES[shapes], 2)
    gallery[0][2], gallery[-1][3] = gallery[0][1], gallery[-1][0]
    everywhere = all_distances(query, gallery, upsample)
    for radius in RADII:
        squared = within(everywhere, query[0].shape[2:], radius)
        nearest = squared.float().sort(dim=1, stable=True)[1]  # ties to the lower index
        for kappa in (1, 5):
            places = nearest[:, :kappa]
            wanted = squared.gather(1, places)
            for prune in (True, False):
                distances, indices, _ = search_cpu(query, gallery, kappa, None, UPSAMPLES[upsample], prune, radius)
                assert torch.equal(indices < 0, wanted.isinf())
                named = torch.where(indices < 0, torch.inf, squared.gather(1, indices.clamp_min(0)))
                for found in (distances.double(), named):
                    assert torch.allclose(found, wanted, rtol=1e-6, atol=0)
                if shapes in EXACT:
                    assert torch.equal(indices, torch.where(wanted.isinf(), -1, places))


@pytest.mark.slow
def test_a_window_counts_the_same_pairs_in_every_run_and_fewer_than_the_whole():
    query, gallery = smooth(1, SHAPES["square"], 1), smooth(20, SHAPES["square"], 2)
    searches = [search_cpu(query, gallery, 1, None, 1, True, radius)[2] for radius in ((3, 3), (3, 3), (-1, -1))]
    assert searches[0] == searches[1]
    assert searches[0]["fine_pairs"] <= searches[2]["fine_pairs"] < 0.1 * searches[2]["pairs"]
