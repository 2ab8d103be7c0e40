"""The CUDA engine's kernels, on the emulated device, return the CPU engine's bits: distances and indices of random searches.
FASTSPADE_SEARCHES says how many; the default keeps the suite short, and 4000 have been run.
"""

from __future__ import annotations

import os
import random

import pytest
import torch

from fastspade.search.cpu import search_cpu
from fastspade.search.cuda import search_cuda

SEARCHES = int(os.environ.get("FASTSPADE_SEARCHES", "300"))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def grids(draw: random.Random, levels: int) -> list[tuple[int, int]]:
    """Level sizes, finest first: equal, halved (weights exact in float64), of any ratio, or a single pixel."""
    height, width = draw.randint(1, 9), draw.randint(1, 9)
    sizes = [(height, width)]
    for _ in range(levels - 1):
        kind = draw.choice(["equal", "half", "any", "one"])
        if kind == "half":
            height, width = (height + 1) // 2, (width + 1) // 2
        elif kind == "any":
            height, width = draw.randint(1, height), draw.randint(1, width)
        elif kind == "one":
            height = width = 1
        sizes.append((height, width))
    return sizes


def search_of(seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor], int, torch.Tensor | None, int, bool]:
    """query, gallery, kappa, gallery_index, upsample and bfloat16 of one random search, with equal pixels in some."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    levels = draw.randint(1, 4)
    stored = grids(draw, levels)
    asked = stored if draw.random() < 0.5 else grids(draw, levels)
    channels = [draw.randint(1, 40) for _ in range(levels)]
    images, queries = draw.randint(1, 4), draw.randint(1, 2)

    def features(count, sizes, dtype):
        return [
            (torch.randn(count, c, h, w, generator=generator) * draw.choice([1, 1e-3, 30]) + draw.choice([0, 5])).to(dtype)
            for c, (h, w) in zip(channels, sizes, strict=True)
        ]

    query, gallery = features(queries, asked, draw.choice(DTYPES)), features(images, stored, draw.choice(DTYPES))
    if draw.random() < 0.3:
        for level in gallery:
            level[:, :, : level.shape[2] // 2 + 1] = level[:1, :, :1, :1].clone()
    if draw.random() < 0.3 and asked == stored:
        query = [level[:1].expand(queries, -1, -1, -1).contiguous() for level in gallery]
    index = None
    if draw.random() < 0.4:
        pick = draw.choice([lambda n: draw.sample(range(images), n), lambda n: draw.choices(range(images), k=n)])
        index = torch.tensor([pick((images + 1) // 2) for _ in range(queries)])
    slots = images if index is None else index.shape[1]
    return (
        query,
        gallery,
        draw.randint(1, min(slots * stored[0][0] * stored[0][1], 12)),
        index,
        draw.randint(0, 1),
        draw.random() < 0.3,
    )


def differing(engine, seeds) -> list[int]:
    engine.set_device(232448, 8)
    found = []
    for seed in seeds:
        query, gallery, kappa, index, upsample, bfloat16 = search_of(seed)
        engine.set_seed(seed % 6)
        expected = search_cpu(query, gallery, kappa, index, upsample)
        answer = search_cuda(query, gallery, None, kappa, index, upsample, True, bfloat16, engine)
        if not (torch.equal(answer[0], expected[0]) and torch.equal(answer[1], expected[1])):
            found.append(seed)
    return found


@pytest.mark.parametrize("first", range(0, SEARCHES, 1000))
def test_random_searches(emulated, first):
    assert differing(emulated, range(first, min(first + 1000, SEARCHES))) == []


@pytest.mark.parametrize("ratio", [2, 3], ids=["by_weights", "by_steps"])
@pytest.mark.parametrize("channels", [7, 8, 9, 31, 300])
def test_both_ways_of_mixing_with_channels_around_whole_lanes(emulated, ratio, channels):
    """Two levels of one resolution share their sums: the second goes on in the lane where the first ends."""
    emulated.set_device(232448, 8)
    emulated.set_seed(0)
    generator = torch.Generator().manual_seed(channels)
    shapes = [(5, 2 * ratio, 2 * ratio), (channels, 2, 2), (3, 2, 2)]
    query, gallery = ([torch.randn(n, *shape, generator=generator) for shape in shapes] for n in (1, 2))
    expected = search_cpu(query, gallery, 5, None, 1)
    answer = search_cuda(query, gallery, None, 5, None, 1, True, engine=emulated)
    assert torch.equal(answer[0], expected[0]) and torch.equal(answer[1], expected[1])
