"""Plain backgrounds: pixels that equal others are ties, which the lower index wins, and cost neither certificates nor exact
distances. Counted on the emulated device, and for a whole image's size by a model of its bounds."""

from __future__ import annotations

import pytest
import torch
from search_cases import Case, pyramid

from fastspade.search import reference
from fastspade.search.cpu import search_cpu
from fastspade.search.cuda import search_cuda

CASE = Case("objects", ((12, 8, 8), (16, 4, 4), (20, 2, 2)), images=50)
OPERAND_BYTES = 2 * (64 + 4 * 64 + 4 * 64)  # a pair's 16-bit operands: padded channels, four taps of each coarse level
TERM_BYTES = 16


def objects(case: Case, images: int, seed: int, black: float) -> list[torch.Tensor]:
    """Random features whose lower rows, about a share of `black`, all hold one vector per level."""
    levels = pyramid(case, images, seed)
    plain = pyramid(case, 1, 99)
    for level, vectors in zip(levels, plain, strict=True):
        first = round(level.shape[2] * (1 - black)) if black == 1.0 or level.shape[2] > 2 else 1
        if black > 0:
            level[:, :, first:] = vectors[:, :, :1, :1]
    return levels


@pytest.fixture(params=["sm80", "sm90a"])
def engine(request, emulated, monkeypatch):
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", request.param)
    emulated.set_device(232448, 4, request.param == "sm90a")
    emulated.set_seed(3)
    return emulated


def assert_same_as_cpu(found, query, gallery, kappa, index=None):
    expected = search_cpu(query, gallery, kappa, index, 1)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("black", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kappa", [1, 3])
def test_a_black_background_costs_no_more_than_any_other(engine, black, kappa):
    query, gallery = objects(CASE, 1, 1, black), objects(CASE, CASE.images, 2, black)
    distances, indices, counters = search_cuda(query, gallery, None, kappa, None, 1, True, engine=engine)
    uncertain, exact, filtered, bounded, _ = counters.tolist()
    rows, pairs = len(distances), CASE.images * 64
    assert exact / rows < 64
    assert uncertain == filtered == bounded == 0
    assert TERM_BYTES * filtered + OPERAND_BYTES * bounded <= 32 * rows * pairs
    assert_same_as_cpu((distances, indices), query, gallery, kappa)


def test_a_row_without_certificate_is_filtered_before_it_is_ranked(engine):
    """Pixels that differ by less than 16 bits tell, on a background that norms tell apart from the rest."""
    query, gallery = objects(CASE, 1, 1, 0.3), objects(CASE, CASE.images, 2, 0.3)
    generator = torch.Generator().manual_seed(5)
    for level in (*query, *gallery):
        level[:, :, -1:] *= 1 + 1e-6 * torch.randn(level[:, :, -1:].shape, generator=generator)
    distances, indices, counters = search_cuda(query, gallery, None, 1, None, 1, True, engine=engine)
    uncertain, exact, filtered, bounded, _ = counters.tolist()
    assert uncertain > 0 and filtered <= uncertain * CASE.images * 64
    assert uncertain < bounded < filtered / 2 and exact < 9 * len(distances) + bounded
    assert_same_as_cpu((distances, indices), query, gallery, 1)


@pytest.mark.parametrize("kappa", [1, 2, 7])
def test_each_place_s_own_vector_repeats_from_image_to_image(engine, kappa):
    gallery = [level[:1].expand(CASE.images, -1, -1, -1).contiguous() for level in pyramid(CASE, 1, 2)]
    query = [level[:1].clone() for level in gallery]
    distances, indices, counters = search_cuda(query, gallery, None, kappa, None, 1, True, engine=engine)
    assert counters[0] == 0 and (distances == 0).all()
    assert torch.equal(indices, torch.arange(64)[:, None] + 64 * torch.arange(kappa))


@pytest.mark.parametrize("kappa", [1, 5])
def test_ties_go_to_the_lowest_of_the_images_that_are_searched(engine, kappa):
    query, gallery = objects(CASE, 3, 1, 0.5), objects(CASE, 12, 2, 0.5)
    index = torch.tensor([[7, 3, 11, 5], [0, 1, 2, 9], [4, 6, 8, 10]])
    distances, indices, counters = search_cuda(query, gallery, None, kappa, index, 1, True, engine=engine)
    assert_same_as_cpu((distances, indices), query, gallery, kappa, index)


@pytest.mark.parametrize("kappa", [1, 4, 30, 250, 256])
@pytest.mark.parametrize("black", [0.0, 0.5, 1.0])
def test_an_image_named_several_times_has_its_pixels_as_often_side_by_side(engine, kappa, black):
    query, gallery = objects(CASE, 3, 1, black), objects(CASE, 6, 2, black)
    index = torch.tensor([[3, 1, 3, 3], [5, 0, 0, 5], [2, 2, 2, 2]])
    found = search_cuda(query, gallery, None, kappa, index, 1, True, engine=engine)
    assert_same_as_cpu(found[:2], query, gallery, kappa, index)


def test_equal_hashes_of_different_vectors_are_compared(emulated, monkeypatch):
    """Where every hash is the same, neighbours in the order that differ are told apart by their vectors."""
    emulated.set_device(232448, 4)
    sort = torch.Tensor.sort
    monkeypatch.setattr(
        torch.Tensor, "sort", lambda t, *a, **o: sort(t * 0 if t.dtype == torch.int64 and t.dim() == 1 else t, *a, **o)
    )
    query, gallery = objects(CASE, 1, 1, 0.5), objects(CASE, 6, 2, 0.5)
    found = search_cuda(query, gallery, None, 2, None, 1, True, engine=emulated)
    assert_same_as_cpu(found[:2], query, gallery, 2)


@pytest.mark.slow
@pytest.mark.parametrize("black", [0.0, 0.3, 1.0])
def test_at_a_whole_image_s_size_no_row_is_uncertain(black):
    """A model: float16 operands, their lower bounds, equal pixels left out, the nine smallest kept (docs/cuda_search.md)."""
    case = Case("whole", ((64, 56, 56), (128, 28, 28), (128, 14, 14)), images=50)
    query, gallery = objects(case, 1, 1, black), objects(case, 50, 2, black)
    rows = torch.arange(0, 56 * 56, 61)
    vectors = reference.descriptors(query, "bilinear").flatten(0, 1)[rows].float()
    nearest, bounds, keys = [], [], []
    centre = torch.cat([level.mean((0, 2, 3)) for level in gallery])
    scale = 8.0
    for image in range(50):
        stored = reference.descriptors([level[image : image + 1] for level in gallery], "bilinear")[0]
        nearest.append(torch.cdist(vectors.double(), stored).square())
        keys += [hash(row.tobytes()) for row in stored.numpy()]
        q, r = (vectors - centre) * scale / 16, (stored.float() - centre) * scale / 16
        held_q, held_r = q.half().float(), r.half().float()
        slack = held_q.norm(dim=1)[:, None] * ((r - held_r).norm(dim=1) + 2**-12 * r.norm(dim=1)) + (q - held_q).norm(dim=1)[
            :, None
        ] * r.norm(dim=1)
        bounds.append(q.square().sum(1)[:, None] + r.square().sum(1) - 2 * (held_q @ held_r.T + slack))
    true, low = torch.cat(nearest, 1), torch.cat(bounds, 1)
    first = {}
    repeats = torch.tensor([first.setdefault(key, i) != i for i, key in enumerate(keys)])
    low[:, repeats] = float("inf")
    kept = low.topk(9, largest=False)
    best = true.gather(1, kept.indices).min(1).values * (scale / 16) ** 2
    uncertain = (best >= kept.values[:, -1]) & kept.values[:, -1].isfinite()
    assert not uncertain.any()
    # cdist rounds the distances of equal vectors differently.
    torch.testing.assert_close(best, true.min(1).values * (scale / 16) ** 2, rtol=1e-9, atol=1e-9)
