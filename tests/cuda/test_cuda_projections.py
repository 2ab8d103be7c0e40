"""Projections in the finest level's place: where they are searched nothing of the answer changes, and few pairs are left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from projected_features import DEVICES, copies, low_rank, random, real

from fastspade.search.cpu import search_cpu
from fastspade.search.cuda import COUNTERS, plan_cuda, search_cuda

FINE = COUNTERS.index("fine_pairs")
SETS = {
    "real": lambda: real(6),
    "low_rank": lambda: low_rank(((130, 13, 17), (40, 7, 9), (20, 4, 5)), 3),
    "one_level": lambda: low_rank(((200, 11, 13),), 3),
    "copies": copies,
}


def pairs_of(query, gallery) -> int:
    return query[0][:, 0].numel() * gallery[0][:, 0].numel()


@pytest.fixture(params=DEVICES)
def engine(request, emulated, monkeypatch):
    path, device = DEVICES[request.param]
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", path)
    emulated.set_device(*device)
    return emulated


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float16", "bfloat16"])
@pytest.mark.parametrize(("data", "kappa"), [*((data, 1) for data in SETS), ("real", 5), ("low_rank", 90)])
def test_the_answer_has_the_cpu_engine_s_bits_and_few_pairs_are_looked_at(engine, data, kappa, bfloat16):
    query, gallery = SETS[data]()
    expected = search_cpu(query, gallery, kappa, None, 1)
    for seed in (0, 3):
        engine.set_seed(seed)
        found = search_cuda(query, gallery, None, kappa, None, 1, True, bfloat16, engine)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        assert found[2][FINE] < pairs_of(query, gallery) * (0.2 if kappa < 90 and data != "copies" else 1)


@pytest.mark.parametrize("levels", [((130, 13, 17), (40, 7, 9), (20, 4, 5)), ((256, 12, 13),)], ids=["three", "one"])
def test_random_features_are_multiplied_whole(engine, levels):
    query, gallery = random(levels, 1, 1), random(levels, 3, 2)
    expected = search_cpu(query, gallery, 2, None, 1)
    found = search_cuda(query, gallery, None, 2, None, 1, True, engine=engine)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[2][FINE] == pairs_of(query, gallery) and found[2][0] == 0


def test_few_channels_are_not_projected(engine):
    query, gallery = low_rank(((60, 12, 13),), 3)
    assert search_cuda(query, gallery, None, 1, None, 1, True, engine=engine)[2][FINE] == pairs_of(query, gallery)


def test_a_value_that_is_not_finite_spoils_no_direction(emulated):
    query, gallery = real(3)
    gallery[0][1, 5, 2, 3] = float("nan")
    emulated.set_device(232448, 4)
    found = search_cuda(query, gallery, None, 1, None, 1, False, engine=emulated, check=False)
    assert found[0].isnan().all() and (found[1] == 256 + 2 * 16 + 3).all()
    assert found[2][FINE] < pairs_of(query, gallery) / 5


# -- the counts, against plain NumPy


def bounds(query, gallery) -> tuple[np.ndarray, np.ndarray]:
    """(query pixels, gallery pixels): true distances, and their lower bounds by projections, of a search at one resolution per
    level; as csrc/cuda/project.cuh defines the directions."""
    mixed = [
        [np.asarray(torch.nn.functional.interpolate(level.double(), side[0].shape[2:], mode="bilinear")) for level in side]
        for side in (query, gallery)
    ]
    flat = [[np.moveaxis(level, 1, 3).reshape(-1, level.shape[1]) for level in side] for side in mixed]

    def squares(a, b):
        return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)

    parts = [squares(q, g) for q, g in zip(*flat, strict=True)]
    centre = flat[1][0].mean(0)
    q, g = flat[0][0] - centre, flat[1][0] - centre
    hop = int(0.6180339887498949 * len(g)) | 1
    sample = g[np.arange(256) * hop % len(g)]
    directions, _ = np.linalg.qr((sample[:31] @ sample.T @ sample).T)
    a, b = q @ directions, g @ directions
    rest = [np.sqrt(np.maximum((x * x).sum(1) - (y * y).sum(1), 0)) for x, y in ((q, a), (g, b))]
    projected = squares(a, b) + (rest[0][:, None] - rest[1]) ** 2
    return sum(parts), sum(parts[1:]) + projected


def listed(distances: np.ndarray, low: np.ndarray, keep: int, capacity: int) -> int:
    """Pairs of one row whose finest channels are read, in the gallery's order: a list is refined when it is full, and the
    nearest distance in it limits what is listed then. What is left in it at the end is refined, too."""
    limit, listed, fresh, room, nearest = np.inf, 0, 0, capacity, np.inf
    for distance, bound in zip(distances, low, strict=True):
        if bound > limit:
            continue
        listed, fresh, nearest = listed + 1, fresh + 1, min(nearest, distance)
        if fresh == room:
            limit, fresh, room = nearest, 0, capacity - keep
    return listed


def test_as_many_pairs_are_looked_at_as_a_plain_count_says(engine):
    """How many exactly depends on the order of a tile's threads. No order can leave out what the nearest distance does not rule
    out, nor list many more than one pixel after the other does."""
    query, gallery = real(6)
    distances, low = bounds(query, gallery)
    plan = plan_cuda(query, gallery, 1, 6, 1, engine=engine)
    least = (low <= distances.min(1)[:, None] * (1 - 1e-3)).sum()
    shares = np.arange(6 * 256).reshape(6, 256)
    most = sum(
        listed(row[split], bound[split], plan["keep"], plan["capacity"])
        for row, bound in zip(distances, low, strict=True)
        for split in (shares[s :: plan["splits"]].ravel() for s in range(plan["splits"]))
    )
    for seed in range(3):
        engine.set_seed(seed)
        counters = search_cuda(query, gallery, None, 1, None, 1, True, engine=engine)[2]
        assert least <= counters[FINE] <= 1.1 * most
        assert counters[0] == 0 and counters[COUNTERS.index("exact_pairs")] == 4 * len(distances)


@pytest.mark.parametrize("data", SETS)
def test_as_many_pairs_are_ranked_as_without_projections(emulated, data, tmp_path: Path):
    from emulated_engine import build

    query, gallery = SETS[data]()
    whole = build(tmp_path, {"csrc/cuda/project.cuh": ("told >= 0.75 * whole", "told >= 4.0 * whole")}, ["engine"])
    for engine in (emulated, whole):
        engine.set_device(232448, 4)
        engine.set_seed(1)
    found, plain = (search_cuda(query, gallery, None, 2, None, 1, True, engine=one)[2] for one in (emulated, whole))
    assert plain[FINE] == pairs_of(query, gallery)
    assert found[: COUNTERS.index("fine_pairs")].tolist() == plain[: COUNTERS.index("fine_pairs")].tolist()
