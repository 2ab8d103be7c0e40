"""Projections in the finest level's place: where they are searched nothing of the answer changes, and few pairs are left."""

from __future__ import annotations

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
    engine.set_seed(3 if bfloat16 else 0)
    found = search_cuda(query, gallery, None, kappa, None, 1, True, bfloat16, engine)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[2][FINE] < pairs_of(query, gallery) * (0.2 if kappa < 90 and data != "copies" else 1)


@pytest.mark.gpu
@pytest.mark.parametrize("path", ["sm80", "sm90a"])
@pytest.mark.parametrize(("data", "kappa"), [*((data, 1) for data in SETS), ("real", 5), ("low_rank", 90)])
def test_on_a_gpu_the_answer_has_the_cpu_engine_s_bits_too(monkeypatch, path, data, kappa):
    if path == "sm90a" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the sm_90a search needs compute capability 9.0")
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", path)
    query, gallery = SETS[data]()
    expected = search_cpu(query, gallery, kappa, None, 1)
    found = search_cuda([level.cuda() for level in query], [level.cuda() for level in gallery], None, kappa, None, 1, True)
    assert torch.equal(found[0].cpu(), expected[0]) and torch.equal(found[1].cpu(), expected[1])
    if kappa < 90 and data != "copies":
        assert found[2][FINE] < pairs_of(query, gallery)


@pytest.mark.parametrize("levels", [((130, 13, 17), (40, 7, 9), (20, 4, 5)), ((256, 12, 13),)], ids=["three", "one"])
def test_random_features_are_multiplied_whole(engine, levels):
    query, gallery = random(levels, 1, 1), random(levels, 3, 2)
    expected = search_cpu(query, gallery, 2, None, 1)
    found = search_cuda(query, gallery, None, 2, None, 1, True, engine=engine)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[2][FINE] == pairs_of(query, gallery) and found[2][0] == 0


@pytest.mark.parametrize("brighter", [1.0, 1000.0])
def test_a_finest_level_of_little_weight_is_projected_however_little_that_tells_of_it(engine, brighter):
    """Directions of random features tell little; what they leave untold is a share of the distance in all levels."""
    levels = ((130, 13, 17), (40, 7, 9), (20, 4, 5))
    query, gallery = random(levels, 1, 1), random(levels, 3, 2)
    for level, weight in zip(range(3), (0.1, 1.0, 1.0), strict=True):
        query[level] *= weight
        gallery[level] *= weight
        gallery[level][1] *= brighter
    expected = search_cpu(query, gallery, 2, None, 1)
    found = search_cuda(query, gallery, None, 2, None, 1, True, engine=engine)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[2][FINE] < 0.5 * pairs_of(query, gallery)


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


def test_rows_beyond_the_image_list_nothing_where_bounds_are_not_numbers(engine):
    """They would have their pairs refined, which reads beyond the operands."""
    query, gallery = real(6)
    query = [level[:, :, :1, :1].contiguous() for level in query[:1]]
    gallery = [level[:6].contiguous() for level in gallery[:1]]
    gallery[0][4] = float("nan")
    found = search_cuda(query, gallery, None, 1, None, 1, False, engine=engine, check=False)
    assert found[0].isnan().all() and found[1].item() == 4 * 256
    assert found[2][FINE] <= pairs_of(query, gallery)


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
    for seed in (1, 2):
        engine.set_seed(seed)
        counters = search_cuda(query, gallery, None, 1, None, 1, True, engine=engine)[2]
        assert least <= counters[FINE] <= 1.1 * most
        assert counters[0] == 0 and counters[COUNTERS.index("exact_pairs")] == 4 * len(distances)


def fine_pairs_counted(query: np.ndarray, gallery: np.ndarray, kappa: int, keep: int, capacity: int) -> tuple[int, int]:
    """Pairs whose finest channels are multiplied, where a query pixel's list is full exactly after whole tiles and once; and how
    many join a list after that, at most. (pixels, channels) of one query image and one gallery image of one level, as the kernels
    bound their distances (prepare.cuh, project.cuh, row_lists.cuh), in float64 but for what is kept in 16 bits."""
    centre = gallery.mean(0).astype(np.float32)
    up, accumulated = 1 + 2.0**-20, 2.0**-19 * (query.shape[1] / 16 + 16)

    def prepared(side: np.ndarray, is_gallery: bool):
        largest = np.square(side - centre).sum(1).max()
        scale = 2.0 ** np.floor(np.log2(64**2 * 0.999 / largest) / 2)
        value = (side - centre) * scale
        held = value.astype(np.float32).astype(np.float16).astype(float)
        norm, operand = np.square(value).sum(1), np.linalg.norm(held, axis=1)
        residual = np.linalg.norm(value - held, axis=1)
        terms = np.array([
            norm - 2.0**-19 * (norm + operand**2),
            (operand + is_gallery * residual) * up,
            (residual + is_gallery * accumulated * operand) * up,
        ])  # fmt: skip
        return held, terms, scale

    def projected(held: np.ndarray, terms: np.ndarray):
        along, norm = held @ directions, np.square(held).sum(1)
        rest = np.sqrt(np.maximum(norm - np.square(along).sum(1), 0) + 2.0**-32 * norm) * up
        low = along.astype(np.float16).astype(float)
        high = rest.astype(np.float32).astype(np.float16)
        high = np.where(high < rest, np.nextafter(high, np.float16(np.inf)), high).astype(float)
        both = np.column_stack([low, high])
        growth = np.maximum(np.linalg.norm(both, axis=1) - np.sqrt(norm), 0)
        error = np.linalg.norm(along - low, axis=1)
        return both, np.array([terms[0], (terms[1] + growth) * up, (terms[2] + error) * up])

    def bounds_of(q, q_terms, g, g_terms):
        slack = np.outer(q_terms[1], g_terms[2]) + np.outer(q_terms[2], g_terms[1])
        return q_terms[0][:, None] + ratio**2 * g_terms[0] - 2 * ratio * (q @ g.T + slack), slack

    q, q_terms, q_scale = prepared(query, False)
    g, g_terms, g_scale = prepared(gallery, True)
    ratio = q_scale / g_scale
    sample = g[np.arange(256) * (int(0.6180339887498949 * len(g)) | 1) % len(g)]
    directions, _ = np.linalg.qr((sample[:31] @ sample.T @ sample).T)
    fine, slack = bounds_of(q, q_terms, g, g_terms)
    norms = (q_terms[0] + q_terms[1] ** 2)[:, None] + ratio**2 * (g_terms[0] + g_terms[1] ** 2)
    above = 4 * ratio * slack + 2.0**-16 * norms + ratio * 2.0**-20
    first = np.sort(fine[:, :capacity], axis=1)
    limit = np.minimum(first[:, kappa - 1] + above[:, :capacity].max(1), first[:, keep - 1])
    low, _ = bounds_of(*projected(q, q_terms), *projected(g, g_terms))
    later = (low[:, capacity:] <= limit[:, None]).sum(1)
    return capacity * len(query) + int(later.sum()), int(later.max())


def test_exactly_as_many_pairs_are_refined_as_a_plain_count_says(engine):
    """Kappa 114 has lists of 256 places, which the gallery's first two tiles fill. They hold the pixels that are nearest to all
    query pixels, so that what comes then, fits, and in no list does it matter what comes first."""
    (query, *_), (gallery, *_) = real(6)
    query, gallery = query[:, :, 8:11, :3].contiguous(), gallery.permute(1, 0, 2, 3).reshape(1, -1, 32, 48)
    flat = [np.moveaxis(level.numpy(), 1, 3).reshape(-1, level.shape[1]).astype(float) for level in (query, gallery)]
    order = np.argsort(np.square(flat[0][:, None] - flat[1]).sum(2).max(0), kind="stable")
    flat[1] = flat[1][order]
    gallery = torch.from_numpy(flat[1].T.reshape(gallery.shape).astype(np.float32))
    plan = plan_cuda([query], [gallery], 114, 1, 1, engine=engine)
    assert (plan["keep"], plan["capacity"], plan["splits"]) == (171, 256, 1)
    expected, most = fine_pairs_counted(*flat, 114, 171, 256)
    assert 0 < most <= 85 and expected > 256 * len(flat[0])
    for seed in range(3):
        engine.set_seed(seed)
        counters = search_cuda([query], [gallery], None, 114, None, 1, True, engine=engine)[2]
        assert counters[FINE] == expected and counters[0] == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An engine that multiplies whatever features whole."""
    from emulated_engine import build, kernels_of

    changed = {"csrc/cuda/project.cuh": ("untold <= 0.1 *", "untold <= -1.0 *")}
    return build(tmp_path_factory.mktemp("whole"), changed, {"changed": kernels_of("project.cuh")})


@pytest.mark.parametrize("data", SETS)
def test_as_many_pairs_are_ranked_as_without_projections(emulated, whole, data):
    query, gallery = SETS[data]()
    for engine in (emulated, whole):
        engine.set_device(232448, 4)
        engine.set_seed(1)
    found, plain = (search_cuda(query, gallery, None, 2, None, 1, True, engine=one)[2] for one in (emulated, whole))
    assert plain[FINE] == pairs_of(query, gallery)
    assert found[: COUNTERS.index("fine_pairs")].tolist() == plain[: COUNTERS.index("fine_pairs")].tolist()
