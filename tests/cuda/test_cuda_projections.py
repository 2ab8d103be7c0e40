"""Projections of whole descriptors: where they are searched nothing of the answer changes, and few pairs are left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from projected_features import DEVICES, copies, low_rank, random, real, stored_level

from fastspade.search import cuda
from fastspade.search.cpu import search_cpu
from fastspade.search.cuda import COUNTERS, plan_cuda, prepare_gallery_cuda, search_cuda

FINE = COUNTERS.index("fine_pairs")
LEVELS = ((130, 13, 17), (40, 7, 9), (20, 4, 5))
SETS = {
    "real": lambda: real(6),
    "low_rank": lambda: low_rank(LEVELS, 3),
    "one_level": lambda: low_rank(((300, 11, 13),), 3),
    "copies": copies,
}


def pairs_of(query, gallery) -> int:
    return query[0][:, 0].numel() * gallery[0][:, 0].numel()


def search(query, gallery, kappa: int, engine, *, redo: bool = True, bfloat16: bool = False, check: bool = True):
    """Distances, indices and counters of a search in a prepared gallery."""
    prepared = prepare_gallery_cuda(gallery, 1, bfloat16, engine)
    return search_cuda(query, gallery, prepared, kappa, None, 1, redo, bfloat16, engine, check)


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
    found = search(query, gallery, kappa, engine, bfloat16=bfloat16)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[2][FINE] < pairs_of(query, gallery) * (0.2 if kappa < 90 else 1)


@pytest.mark.gpu
@pytest.mark.parametrize("path", ["sm80", "sm90a"])
@pytest.mark.parametrize(("data", "kappa"), [*((data, 1) for data in SETS), ("real", 5), ("low_rank", 90)])
def test_on_a_gpu_the_answer_has_the_cpu_engine_s_bits_too(monkeypatch, path, data, kappa):
    if path == "sm90a" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the sm_90a search needs compute capability 9.0")
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", path)
    query, gallery = SETS[data]()
    expected = search_cpu(query, gallery, kappa, None, 1)
    found = search([level.cuda() for level in query], [level.cuda() for level in gallery], kappa, None)
    assert torch.equal(found[0].cpu(), expected[0]) and torch.equal(found[1].cpu(), expected[1])
    if kappa < 90:
        assert found[2][FINE] < pairs_of(query, gallery) * 0.2


@pytest.mark.parametrize("levels", [LEVELS, ((256, 12, 13),)], ids=["three", "one"])
def test_random_features_are_multiplied_whole(engine, levels):
    query, gallery = random(levels, 1, 1), random(levels, 3, 2)
    expected = search_cpu(query, gallery, 2, None, 1)
    found = search(query, gallery, 2, engine)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[2][FINE] == pairs_of(query, gallery) and found[2][0] == 0


def test_few_channels_are_not_projected(engine):
    query, gallery = low_rank(((190, 12, 13),), 3)
    assert search(query, gallery, 1, engine)[2][FINE] == pairs_of(query, gallery)


def test_a_gallery_prepared_for_one_search_is_projected_where_pairs_are_many(engine, monkeypatch):
    query, gallery = real(6)
    whole = search_cuda(query, gallery, None, 1, None, 1, True, engine=engine)
    assert whole[2][FINE] == pairs_of(query, gallery)
    monkeypatch.setattr(cuda, "PROJECTED_PAIRS", pairs_of(query, gallery))
    projected = search_cuda(query, gallery, None, 1, None, 1, True, engine=engine)
    assert projected[2][FINE] < pairs_of(query, gallery) / 5
    assert torch.equal(projected[0], whole[0]) and torch.equal(projected[1], whole[1])


def test_images_are_projected_a_few_at_a_time(emulated):
    """Native projections are kept of 32 MB of images: here of two gallery images, of three."""
    levels = ((130, 92, 93), (40, 46, 47), (70, 20, 30))
    query, gallery = low_rank(levels, 3)
    query = [level[:, :, : level.shape[2] // 10, : level.shape[3] // 10].contiguous() for level in query]
    expected = search_cpu(query, gallery, 1, None, 1)
    emulated.set_device(232448, 4)
    found = search(query, gallery, 1, emulated)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[2][FINE] < pairs_of(query, gallery) / 20


def test_a_value_that_is_not_finite_spoils_no_direction(emulated):
    query, gallery = real(3)
    gallery[0][1, 5, 2, 3] = float("nan")
    emulated.set_device(232448, 4)
    found = search(query, gallery, 1, emulated, redo=False, check=False)
    assert found[0].isnan().all() and (found[1] == 256 + 2 * 16 + 3).all()
    assert found[2][FINE] < pairs_of(query, gallery) / 5


def test_rows_beyond_the_image_list_nothing_where_bounds_are_not_numbers(engine):
    """They would have their pairs refined, which reads beyond the operands."""
    query, gallery = real(6)
    query = [level[:, :, :1, :1].contiguous() for level in query]
    gallery[0][4] = float("nan")
    found = search(query, gallery, 1, engine, redo=False, check=False)
    assert found[0].isnan().all() and found[1].item() == 4 * 256
    assert found[2][FINE] <= pairs_of(query, gallery)


# -- the counts, against plain NumPy


def directions(gallery: list[np.ndarray]) -> np.ndarray:
    """(channels, 253) or fewer, as fastspade.search.cuda says of them; gallery: (images, height, width, channels) of each level."""
    images, height, width = gallery[0].shape[:3]
    count = images * height * width
    at = np.arange(1024) * (int(0.6180339887498949 * count) | 1) % count
    y, x = at // width % height, at % width
    parts = [level[at // (height * width), y * level.shape[1] // height, x * level.shape[2] // width] for level in gallery]
    sample = np.concatenate(parts, axis=1).astype(float)
    sample -= sample.mean(0)
    found = sample[:253]
    for _ in range(2):
        found = found @ sample.T @ sample
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return np.linalg.qr(found.T)[0]


def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)


def bounds(query, gallery) -> list[np.ndarray]:
    """(query pixels, gallery pixels) each: lower bounds by 63 directions and by all, and upper ones by all."""
    size = query[0].shape[2:]
    flat = [
        np.concatenate(
            [
                np.moveaxis(np.asarray(torch.nn.functional.interpolate(level.double(), size, mode="bilinear")), 1, 3).reshape(
                    -1, level.shape[1]
                )
                for level in side
            ],
            axis=1,
        )
        for side in (query, gallery)
    ]
    along = directions([np.moveaxis(level.numpy(), 1, 3) for level in gallery])
    q, g = (side - flat[1].mean(0) for side in flat)

    def rests(n: int) -> tuple[np.ndarray, np.ndarray]:
        a, b = (np.sqrt(np.maximum((x * x).sum(1) - np.square(x @ along[:, :n]).sum(1), 0)) for x in (q, g))
        return a[:, None], b

    low, most = (
        squares(q @ along[:, :n], g @ along[:, :n]) + sign * np.square(rests(n)[0] - sign * rests(n)[1])
        for n, sign in ((63, 1), (253, 1))
    )
    high = squares(q @ along, g @ along) + np.square(sum(rests(253)))
    return [squares(q, g), low, most, high]


def listed(low: np.ndarray, refined: np.ndarray, high: np.ndarray, keep: int, capacity: int) -> int:
    """Pairs of one row that all directions are read of, in the gallery's order: a list is refined when it is full, and the most
    that the distance of its pair with the least bound can be limits what is listed then. What is left in it at the end is refined,
    too."""
    limit, count, fresh, room, best = np.inf, 0, 0, capacity, (np.inf, np.inf)
    for first, second, most in zip(low, refined, high, strict=True):
        if first > limit:
            continue
        count, fresh, best = count + 1, fresh + 1, min(best, (second, most))
        if fresh == room:
            limit, fresh, room = min(limit, best[1]), 0, capacity - keep
    return count


def test_as_many_pairs_are_looked_at_as_a_plain_count_says(engine):
    """How many exactly depends on the order of a tile's threads. No order can leave out what the nearest distance does not rule
    out, nor list many more than one pixel after the other does."""
    query, gallery = real(6)
    distances, *parts = bounds(query, gallery)
    plan = plan_cuda(query, gallery, 1, 6, 1, engine=engine)
    least = (parts[0] <= distances.min(1)[:, None] * (1 - 1e-3)).sum()
    shares = np.arange(6 * 256).reshape(6, 256)
    most = sum(
        listed(*(part[split] for part in row), plan["keep"], plan["capacity"])
        for row in zip(*parts, strict=True)
        for split in (shares[s :: plan["splits"]].ravel() for s in range(plan["splits"]))
    )
    for seed in (1, 2):
        engine.set_seed(seed)
        counters = search(query, gallery, 1, engine)[2]
        assert least <= counters[FINE] <= 1.1 * most
        assert counters[0] == 0 and counters[COUNTERS.index("exact_pairs")] == 4 * len(distances)


def fine_pairs_counted(query: np.ndarray, gallery: np.ndarray, kappa: int, keep: int, capacity: int) -> tuple[int, int]:
    """Pairs that all directions are read of, where a query pixel's list is full exactly after whole tiles and once; and how many
    join a list after that, at most. (pixels, channels) of one query image and one gallery image of one level, as the kernels bound
    their distances (prepare.cuh, project.cuh, row_lists.cuh), in float64 but for what is kept in 16 bits."""
    centre = gallery.mean(0).astype(np.float32)
    along = directions([gallery[None, None]])
    channels = query.shape[1]

    def up(values: np.ndarray) -> np.ndarray:
        half = values.astype(np.float32).astype(np.float16)
        return np.where(half < values, np.nextafter(half, np.float16(np.inf)), half).astype(float)

    def prepared(side: np.ndarray, is_gallery: bool):
        """Operands of the first product and of what refines it, and terms: norm, operand, error and the last rest."""
        scale = 2.0 ** np.floor(np.log2(64**2 * 0.999 / np.square(side - centre).sum(1).max()) / 2)
        value = (side - centre) * scale
        length = np.linalg.norm(value, axis=1)
        off = length * 2.0**-20 * (32 + channels // 32 + 12)
        a = value @ along
        held = a.astype(np.float16).astype(float)
        rests = [
            up(np.sqrt(length**2 - np.maximum(np.linalg.norm(a[:, :n], axis=1) - off, 0) ** 2 + 2.0**-20 * length**2))
            for n in (63, 253)
        ]
        turned = rests[0] if is_gallery else -rests[0]
        error = np.linalg.norm(a - held, axis=1) + off
        whole = length + error
        terms = [length**2 * (1 - 2.0**-17), whole + is_gallery * error, error + is_gallery * 2.0**-16 * whole, rests[1]]
        return np.column_stack([held[:, :63], rests[0]]), np.column_stack([held[:, 63:], turned, rests[1]]), terms, scale

    q, q_more, q_terms, q_scale = prepared(query, False)
    g, g_more, g_terms, g_scale = prepared(gallery, True)
    ratio = q_scale / g_scale
    slack = np.outer(q_terms[1], g_terms[2]) + np.outer(q_terms[2], g_terms[1])
    low = q_terms[0][:, None] + ratio**2 * g_terms[0] - 2 * ratio * (q @ g.T + slack)
    refined = low - 2 * ratio * q_more @ g_more.T
    norms = (q_terms[0] + q_terms[1] ** 2)[:, None] + ratio**2 * (g_terms[0] + g_terms[1] ** 2)
    high = refined + 4 * ratio * (slack + np.outer(q_terms[3], g_terms[3])) + 2.0**-16 * norms + ratio * 2.0**-20
    order = np.argsort(refined[:, :capacity], axis=1)
    farthest = np.take_along_axis(high, order[:, :kappa], 1).max(1)
    limit = np.minimum(farthest, np.take_along_axis(refined, order, 1)[:, keep - 1])
    later = (low[:, capacity:] <= limit[:, None]).sum(1)
    return capacity * len(query) + int(later.sum()), int(later.max())


def test_exactly_as_many_pairs_are_refined_as_a_plain_count_says(engine):
    """Kappa 114 has lists of 256 places, which the gallery's first two tiles fill. They hold the pixels that are nearest to all
    query pixels, and most others are moved away, so that what comes then, fits, and in no list does it matter what comes first."""
    query, gallery = stored_level("query", 2)[:, :, :3, :3], stored_level("gallery", 2).permute(1, 0, 2, 3).reshape(1, -1, 28, 35)
    flat = [np.moveaxis(level.numpy(), 1, 3).reshape(-1, level.shape[1]).astype(float) for level in (query, gallery)]
    flat[1] = flat[1][np.argsort(squares(*flat).max(0), kind="stable")]
    flat[1][300:] = 3 * flat[1][300:] - 2 * flat[0].mean(0)
    flat[1] = flat[1].astype(np.float32).astype(float)
    gallery = torch.from_numpy(flat[1].T.reshape(gallery.shape).astype(np.float32))
    plan = plan_cuda([query], [gallery], 114, 1, 1, engine=engine)
    assert (plan["keep"], plan["capacity"], plan["splits"]) == (171, 256, 1)
    expected, most = fine_pairs_counted(*flat, 114, 171, 256)
    assert 0 < most <= 85 and expected > 256 * len(flat[0])
    for seed in range(3):
        engine.set_seed(seed)
        counters = search([query], [gallery], 114, engine)[2]
        assert counters[FINE] == expected and counters[0] == 0


@pytest.mark.parametrize("data", SETS)
def test_hardly_more_pairs_are_ranked_than_without_projections(emulated, data):
    query, gallery = SETS[data]()
    emulated.set_device(232448, 4)
    emulated.set_seed(1)
    found = search(query, gallery, 2, emulated)[2]
    plain = search_cuda(query, gallery, None, 2, None, 1, True, engine=emulated)[2]
    assert plain[FINE] == pairs_of(query, gallery)
    ranked = COUNTERS.index("exact_pairs")
    assert found[0] == plain[0] == 0 and found[ranked] <= 1.1 * plain[ranked]
