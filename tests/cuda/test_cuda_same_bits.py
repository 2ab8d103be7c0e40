"""The CUDA engine's kernels, on the emulated device and on a GPU, return the CPU engine's bits: distances and indices of random
searches. FASTSPADE_SEARCHES says how many; the default keeps the suite short, and 4000 have been run on the emulated device.
"""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path

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


def emulated_search(engine, seed, query, gallery, kappa, index, upsample, bfloat16):
    engine.set_device(232448, 8)
    engine.set_seed(seed % 6)
    return search_cuda(query, gallery, None, kappa, index, upsample, True, bfloat16, engine)[:2]


def gpu_search(seed, query, gallery, kappa, index, upsample, bfloat16):
    sides = ([level.cuda() for level in side] for side in (query, gallery))
    found = search_cuda(*sides, None, kappa, None if index is None else index.cuda(), upsample, True, bfloat16)
    return found[0].cpu(), found[1].cpu()


@pytest.fixture(params=[pytest.param("emulated", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)])
def search(request):
    return gpu_search if request.param == "cuda" else partial(emulated_search, request.getfixturevalue("emulated"))


def same_bits(search, seed, query, gallery, kappa, index=None, upsample=1, bfloat16=False) -> bool:
    expected = search_cpu(query, gallery, kappa, index, upsample)
    found = search(seed, query, gallery, kappa, index, upsample, bfloat16)
    return torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("first", range(0, SEARCHES, 1000))
def test_random_searches(search, first):
    assert [seed for seed in range(first, min(first + 1000, SEARCHES)) if not same_bits(search, seed, *search_of(seed))] == []


@pytest.mark.parametrize("ratio", [2, 3], ids=["by_weights", "by_steps"])
@pytest.mark.parametrize("channels", [7, 8, 9, 31, 300])
def test_both_ways_of_mixing_with_channels_around_whole_lanes(search, ratio, channels):
    """Two levels of one resolution share their sums: the second goes on in the lane where the first ends."""
    generator = torch.Generator().manual_seed(channels)
    shapes = [(5, 2 * ratio, 2 * ratio), (channels, 2, 2), (3, 2, 2)]
    query, gallery = ([torch.randn(n, *shape, generator=generator) for shape in shapes] for n in (1, 2))
    assert same_bits(search, 0, query, gallery, 5)


def slopes(size: int) -> list[torch.Tensor]:
    """Three pixels brought to `size`, whose value is where they lie: positions that two sizes share differ by how they round."""
    return [torch.zeros(1, 1, size, size), torch.arange(3.0).expand(1, 2, 3, 3).contiguous()]


def test_positions_round_alike(search):
    sides = [slopes(size) for size in (7, 9, 11, 13)]
    assert all(same_bits(search, 0, query, gallery, 2) for query in sides for gallery in sides)


def test_a_fused_position_is_noticed(emulated, tmp_path: Path):
    """As a GPU's compiler would have it."""
    from emulated_engine import UNITS, build

    fault = {"csrc/core/upsampling.hpp": ("return a * b + c;", "return __builtin_fma(a, b, c);")}
    fused = build(tmp_path, fault, {"engine": UNITS["engine"]})
    with pytest.raises(AssertionError):
        test_positions_round_alike(partial(emulated_search, fused))
