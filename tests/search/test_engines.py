"""Every engine against float64 brute force, on the same cases: the CPU's, CUDA's, and CUDA's kernels emulated on the host."""

from __future__ import annotations

import pytest
import torch
from engines import KERNEL_CASES, SOME, UPSAMPLES, check, cuda_search, emulated_search
from search_cases import CASES, Case, gallery_index, nearly_equal, pyramid, smooth
from search_checks import assert_exact

from fastspade import knn, pyramid_knn
from fastspade.search.cpu import search_cpu
from fastspade.search.cuda import gallery_bytes_cuda, plan_cuda, prepare_gallery_cuda, search_cuda
from fastspade.search.streamed import search_streamed


@pytest.fixture(params=["cpu", pytest.param("emulated", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)])
def search(request):
    if request.param == "cpu":
        return pyramid_knn
    return cuda_search if request.param == "cuda" else emulated_search(request.getfixturevalue("emulated"))


@pytest.mark.parametrize("case", CASES + KERNEL_CASES, ids=lambda case: case.name)
def test_matches_float64_brute_force(search, case):
    check(search, case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_half_precision_inputs_are_read_exactly(search, case, dtype):
    check(search, case, dtype=dtype)


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_holds_far_from_the_origin(search, case):
    check(search, case, mean=1000.0, spread=1.0)


@pytest.mark.parametrize("spread", [1e-12, 1e-3, 1e9, 1e15])
def test_holds_at_any_scale(search, spread):
    check(search, SOME[1], spread=spread)


def test_images_of_very_different_scales_do_not_disturb_each_other(search):
    case = Case("scales", ((8, 9, 10), (12, 4, 5)), kappa=2)
    query, gallery = pyramid(case, 2, 1), pyramid(case, 3, 2)
    factors = torch.tensor([1.0, 1e-3, 1e6])
    gallery = [level * factors.view(3, 1, 1, 1) for level in gallery]
    query = [level * factors[1:].view(2, 1, 1, 1) for level in query]
    found = search(query, gallery, case.kappa, upsample=case.upsample)
    assert_exact(found, query, gallery, case.kappa, upsample=case.upsample)


@pytest.mark.parametrize("kappa", [1, 3, 8, 17, 64])
@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_kappa_and_upsampling_with_a_batch(search, kappa, upsample):
    check(
        search,
        Case("batch", ((12, 12, 11), (20, 6, 6), (9, 3, 3)), queries=3, images=5, kappa=kappa, upsample=upsample, chosen=2),
    )


def test_an_image_may_be_chosen_twice_and_order_does_not_matter(search):
    case = Case("twice", ((7, 9, 8), (5, 5, 4)), images=4)
    query, gallery = pyramid(case, 2, 1), pyramid(case, 4, 2)
    plain = search(query, gallery, 2, gallery_index=torch.tensor([[0, 2, 3], [1, 2, 0]]))
    mixed = search(query, gallery, 2, gallery_index=torch.tensor([[3, 0, 2], [2, 0, 1]]))
    for a, b in zip(plain, mixed, strict=True):
        assert torch.equal(a, b)
    distances, indices = search(query, gallery, 2, gallery_index=torch.tensor([[1, 1], [2, 2]]))
    assert torch.equal(distances[..., 0], distances[..., 1]) and torch.equal(indices[..., 0], indices[..., 1])


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_ties_go_to_the_lowest_index(search, upsample):
    query = [torch.ones(1, 5, 12, 10), torch.ones(1, 3, 6, 5)]
    gallery = [level.expand(3, -1, -1, -1) for level in query]
    distances, indices = search(query, gallery, 4, upsample=upsample)
    assert (distances == 0).all() and (indices == torch.arange(4)).all()


def test_distances_equal_in_float32_are_ties(search):
    """Later pixels are nearer by less than float32 can tell: the answer must not depend on that."""
    below = torch.linspace(1e-5, 0, 2 * 9 * 8).reshape(2, 1, 9, 8)
    gallery = [torch.cat([torch.ones_like(below), below], dim=1), torch.zeros(2, 3, 5, 4)]
    query = [torch.zeros(1, 2, 9, 8), torch.zeros(1, 3, 5, 4)]
    distances, indices = search(query, gallery, 5)
    assert (distances == 1).all() and (indices == torch.arange(5)).all()


def test_identical_images_are_found_at_distance_zero(search):
    case = Case("same", ((16, 14, 13), (24, 7, 7)), images=4)
    gallery = pyramid(case, 4, 2)
    distances, indices = search([level[2:3] for level in gallery], gallery, 1)
    assert (distances == 0).all()
    assert torch.equal(indices.flatten(), 2 * 14 * 13 + torch.arange(14 * 13))


def test_strides_do_not_matter(search):
    query, gallery = pyramid(SOME[1], 2, 1), pyramid(SOME[1], 4, 2)
    plain = search(query, gallery, 3)
    forms = [
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        lambda t: torch.nn.functional.pad(t, (1, 2, 3, 1, 2, 0))[:, 2:, 3:-1, 1:-2],
    ]
    for form in forms:
        for a, b in zip(search([form(t) for t in query], [form(t) for t in gallery], 3), plain, strict=True):
            assert torch.equal(a, b)


def test_smooth_features_with_many_near_ties(search):
    case = Case("smooth", ((16, 18, 17), (24, 9, 9)), images=3)
    query, gallery = smooth(case, 1, 1), smooth(case, 3, 2)
    assert_exact(search(query, gallery, 5), query, gallery, 5)


# -- what only the CUDA kernels have, on the emulated device


def test_lists_rings_and_tiles_of_every_size_are_exercised(emulated):
    """The cases really take the plan's different ways."""
    plans = []
    for case in CASES + KERNEL_CASES:
        query, gallery = pyramid(case, case.queries, 1), pyramid(case, case.images, 2)
        for device in ((232448, 8), (101376, 8), (166912, 2)):
            emulated.set_device(*device)
            plans.append(
                plan_cuda(query, gallery, case.kappa, case.chosen or case.images, UPSAMPLES[case.upsample], engine=emulated)
            )
    assert {plan["tile_rows"] for plan in plans} == {32, 64, 128}
    assert {plan["groups"] for plan in plans} == {1, 2, 3, 4}
    assert {plan["lists_on_chip"] for plan in plans} == {True, False}
    assert any(plan["splits"] > 1 for plan in plans) and any(plan["segments"] > 1 for plan in plans) is False
    assert any(0 < plan["rings"][1] < 240 for plan in plans if plan["groups"] > 1)


@pytest.mark.parametrize("device", [(101376, 8), (166912, 108), (232448, 1)], ids=["100KB", "163KB", "one_processor"])
@pytest.mark.parametrize("case", SOME + KERNEL_CASES, ids=lambda case: case.name)
def test_other_devices_plan_otherwise_and_answer_the_same(emulated, case, device):
    query, gallery, index = pyramid(case, case.queries, 1), pyramid(case, case.images, 2), gallery_index(case)
    options = {"gallery_index": index, "upsample": case.upsample}
    found = emulated_search(emulated, device=device)(query, gallery, case.kappa, **options)
    for a, b in zip(found, emulated_search(emulated)(query, gallery, case.kappa, **options), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", SOME + KERNEL_CASES[:1], ids=lambda case: case.name)
def test_the_order_of_threads_does_not_change_a_bit(emulated, case):
    query, gallery = pyramid(case, case.queries, 1), pyramid(case, case.images, 2)
    results = [emulated_search(emulated, seed=seed)(query, gallery, case.kappa, upsample=case.upsample) for seed in range(5)]
    for found in results[1:]:
        assert torch.equal(found[0], results[0][0]) and torch.equal(found[1], results[0][1])


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_bfloat16_operands_give_the_same_answer(emulated, case):
    check(emulated_search(emulated, bfloat16=True), case)


@pytest.mark.parametrize(
    ("q", "g", "d", "kappa"), [(1, 1, 1, 1), (3, 50, 7, 50), (70, 129, 33, 5), (40, 3000, 16, 2), (33, 5000, 3, 17)]
)
def test_knn_of_plain_vectors(emulated, q, g, d, kappa):
    generator = torch.Generator().manual_seed(3)
    query, gallery = torch.randn(q, d, generator=generator), torch.randn(g, d, generator=generator)
    as_image = [matrix.t()[None, :, :, None] for matrix in (query, gallery)]
    distances, indices = emulated_search(emulated)([as_image[0]], [as_image[1]], kappa, upsample="nearest")
    wanted, places = knn(query, gallery, kappa)
    torch.testing.assert_close(distances.reshape(q, kappa), wanted, rtol=1e-6, atol=0)
    assert torch.equal(indices.reshape(q, kappa), places)


def test_a_long_gallery_is_centred_by_a_sample(emulated):
    """Far from the origin 16 bits hold nothing of the differences: without a good centre every row would be redone."""
    emulated.set_seed(0)
    emulated.set_device(232448, 8)
    gallery = torch.randn(9000, 4, generator=torch.Generator().manual_seed(3)) + 1e4
    query = gallery[[7, 4500, 8999]] + 0.01
    images = [[matrix.t()[None, :, :, None]] for matrix in (query, gallery)]
    distances, indices, counters = search_cuda(*images, None, 2, None, 0, True, engine=emulated)
    wanted, places = knn(query, gallery, 2)
    torch.testing.assert_close(distances, wanted, rtol=1e-6, atol=0)
    assert torch.equal(indices, places) and counters[0] == 0


def test_long_galleries_are_cut_into_segments(emulated):
    emulated.set_device(232448, 64)
    query, gallery = torch.randn(1, 8, 40, 1), torch.randn(1, 8, 5000, 1)
    plan = plan_cuda([query], [gallery], 1, 1, 0, engine=emulated)
    assert plan["segments"] == 3 and plan["splits"] == 3


def test_pairs_are_counted_beyond_32_bits(emulated, monkeypatch):
    """Redoing thousands of rows in a large gallery looks at more pairs than 32 bits hold."""
    emulated.set_seed(0)
    emulated.set_device(232448, 8)
    zeros, gallery = torch.zeros, torch.randn(1, 6, 200, 1, generator=torch.Generator().manual_seed(5))
    gallery[:, :, 50:90] = nearly_equal(gallery[:, :, 50:51].expand(-1, -1, 40, -1))
    monkeypatch.setattr(torch, "zeros", lambda *size, **options: zeros(*size, **options) + 0x7FFFFFF0)
    counters = search_cuda([gallery[:, :, 50:52]], [gallery], None, 1, None, 0, True, engine=emulated)[2]
    assert counters[0] == 0x7FFFFFF0 + 2 and counters[2] == 0x7FFFFFF0 + 400


def test_few_queries_with_many_neighbours_do_not_split_the_gallery_beyond_the_workspace(emulated):
    emulated.set_device(232448, 132)
    query, gallery = torch.empty(1, 8, 1, 1), torch.empty(1, 8, 1, 1).expand(1, 8, 10**6, 1)
    sizes = {kappa: plan_cuda([query], [gallery], kappa, 1, 0, engine=emulated) for kappa in (1, 1000, 100_000)}
    assert sizes[1]["splits"] > 1 and sizes[1000]["splits"] > 1
    assert sizes[100_000]["splits"] == 1 and {plan["tile_rows"] for plan in sizes.values()} == {32}
    # One tile of 32 rows, twice 1.5 kappa keys each and a list half as long again, beside the redo's.
    assert sizes[100_000]["workspace_bytes"] < 32 * 8 * 5.3 * 150_000 + (64 << 20)


def test_rows_that_cannot_be_certified_are_counted_and_redone(emulated):
    """More nearly equal pixels than the margin holds: the nearest are only found by looking again."""
    emulated.set_seed(0)
    emulated.set_device(232448, 8)
    generator = torch.Generator().manual_seed(5)
    gallery = torch.randn(1, 6, 200, 1, generator=generator)
    gallery[:, :, 50:90] = nearly_equal(gallery[:, :, 50:51].expand(-1, -1, 40, -1))
    query = gallery[:, :, 45:55].clone()
    distances, indices, counters = search_cuda([query], [gallery], None, 1, None, 0, True, engine=emulated)
    assert counters[0] == 5
    assert torch.equal(indices.flatten(), torch.arange(45, 55)) and (distances == 0).all()
    assert counters[2] == 5 * 200 and 5 * 40 <= counters[3] < counters[2]  # norms tell the others apart
    fast, _, counters = search_cuda([query], [gallery], None, 1, None, 0, False, engine=emulated)
    assert counters[0] == 5 and counters[2] == 0 and (fast < 1e-9).all()


def test_entries_outside_the_gallery_are_skipped(emulated):
    case = Case("skip", ((7, 9, 8), (5, 5, 4)), images=4)
    query, gallery = pyramid(case, 2, 1), pyramid(case, 4, 2)
    search = emulated_search(emulated)
    plain = search(query, gallery, 2, gallery_index=torch.tensor([[0, 2], [1, 3]]))
    holes = search(query, gallery, 2, gallery_index=torch.tensor([[0, -1, 2], [99, 1, 3]]))
    for a, b in zip(plain, holes, strict=True):
        assert torch.equal(a, b)
    distances, indices = search(query, gallery, 100, gallery_index=torch.tensor([[0, -1], [1, 3]]))
    assert torch.isinf(distances[0, ..., 72:]).all() and (indices[0, ..., 72:] == -1).all()
    assert torch.isfinite(distances[1]).all()


def test_an_image_without_gallery_images_is_not_uncertain(emulated):
    """As in parts of a streamed gallery that hold none of its images: there is nothing to search again."""
    emulated.set_seed(0)
    emulated.set_device(232448, 8)
    query, gallery = pyramid(SOME[1], 2, 1), pyramid(SOME[1], 4, 2)
    index = torch.tensor([[-1, -1, -1], [2, -1, -1]])
    distances, indices, counters = search_cuda(query, gallery, None, 3, index, 1, True, engine=emulated)
    rows = len(distances) // 2
    assert counters[0] == 0
    assert torch.isinf(distances[:rows]).all() and (indices[:rows] == -1).all()
    one = search_cuda([level[1:] for level in query], [level[2:3] for level in gallery], None, 3, None, 1, True, engine=emulated)
    assert torch.equal(distances[rows:], one[0])


@pytest.mark.parametrize("chosen", [False, True])
def test_a_streamed_gallery_gives_the_same_answer(emulated, chosen):
    case = Case("streamed", ((7, 9, 8), (5, 5, 4)), images=7)
    query, gallery = pyramid(case, 2, 1), pyramid(case, 7, 2)
    gallery[0][5], gallery[1][5] = gallery[0][1], gallery[1][1]  # ties across parts
    index = torch.tensor([[5, 1, 6, 3], [4, 1, 2, 0]]) if chosen else None
    whole = search_cuda(query, gallery, None, 3, index, 1, True, engine=emulated)
    for part_bytes in (1, 3000, 10**9):
        streamed = search_streamed(
            gallery,
            3,
            index,
            torch.device("cpu"),
            lambda levels, part, kappa: search_cuda(query, levels, None, kappa, part, 1, True, engine=emulated),
            part_bytes=part_bytes,
        )
        assert torch.equal(streamed[0], whole[0]) and torch.equal(streamed[1], whole[1])


def test_a_streamed_gallery_of_which_no_image_is_chosen_answers_with_nothing(emulated):
    case = Case("streamed", ((7, 9, 8), (5, 5, 4)), images=3)
    query, gallery = pyramid(case, 2, 1), pyramid(case, 3, 2)
    index = torch.tensor([[-1, 7], [3, -5]])
    emulated.set_seed(0)
    distances, indices, counters = search_streamed(
        gallery,
        2,
        index,
        torch.device("cpu"),
        lambda levels, part, kappa: search_cuda(query, levels, None, kappa, part, 1, True, engine=emulated),
        part_bytes=1,
    )
    assert distances.shape == (2 * 72, 2) and torch.isinf(distances).all() and (indices == -1).all()
    assert counters.tolist() == [0, 0, 0, 0, 0]


def test_parts_are_as_large_as_the_module_says(monkeypatch):
    query, gallery = pyramid(SOME[1], 1, 1), pyramid(SOME[1], 3, 2)
    searched = []

    def search(levels, part, kappa):
        searched.append(len(levels[0]))
        return search_cpu(query, levels, kappa, part, 1)[:2] + (0,)

    for size, expected in ((1, [1, 1, 1]), (1 << 30, [3])):
        monkeypatch.setattr("fastspade.search.streamed.PART_BYTES", size)
        searched.clear()
        search_streamed(gallery, 1, None, torch.device("cpu"), search)
        assert searched == expected


def test_parts_searched_one_by_one_merge_to_the_same_bits():
    case = Case("parts", ((7, 9, 8), (5, 5, 4)), images=6)
    query, gallery = pyramid(case, 2, 1), pyramid(case, 6, 2)
    generator = torch.Generator().manual_seed(9)
    for level in gallery:  # near ties across parts: every image is almost the first
        level[1:] = level[:1] * (1 + 1e-7 * torch.randn(5, 1, 1, 1, generator=generator))
    whole = search_cpu(query, gallery, 9, None, 1)
    streamed = search_streamed(
        gallery,
        9,
        None,
        torch.device("cpu"),
        lambda levels, part, kappa: search_cpu(query, levels, kappa, part, 1)[:2] + (0,),
        part_bytes=1,
    )
    assert torch.equal(streamed[0], whole[0]) and torch.equal(streamed[1], whole[1])


def test_a_prepared_gallery_serves_many_searches(emulated):
    query, gallery = pyramid(SOME[1], 2, 1), pyramid(SOME[1], 4, 2)
    prepared = prepare_gallery_cuda(gallery, 1, False, emulated)
    for kappa in (1, 3):
        for a, b in zip(
            search_cuda(query, gallery, prepared, kappa, None, 1, True, engine=emulated),
            search_cuda(query, gallery, None, kappa, None, 1, True, engine=emulated),
            strict=True,
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize("case", [*SOME, KERNEL_CASES[3]], ids=lambda case: case.name)
def test_preparing_a_gallery_writes_every_byte_of_its_memory(emulated, case, monkeypatch):
    """Whatever was there before: two preparations are the same tensor, as torch's check of operators wants it."""
    emulated.set_device(232448, 8)
    gallery, empty, results = pyramid(case, case.images, 2), torch.empty, []
    for before in (0x00, 0xA5):
        monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(before))
        results.append(prepare_gallery_cuda(gallery, 1, False, emulated))
    assert torch.equal(*results)


def test_a_prepared_gallery_s_size_is_known_beforehand(emulated):
    """By what decides whether a bank fits a device. Channels are padded and levels of close resolutions interpolated, so
    that no share of the features' own size would do."""
    emulated.set_device(232448, 8)
    for case in (SOME[1], KERNEL_CASES[2]):
        gallery = pyramid(case, case.images, 2)
        size = gallery_bytes_cuda(case.levels, case.images, torch.device("cpu"), 1, engine=emulated)
        assert size == prepare_gallery_cuda(gallery, 1, False, emulated).numel()
        assert size > 0.5 * sum(level.nbytes for level in gallery)


def test_galleries_beyond_the_numbering_are_refused(emulated):
    huge = torch.empty(1, 1, 1, 1).expand(1, 1, 70000, 65536)
    with pytest.raises(ValueError, match=r"4587520000 gallery pixels.*2\^32"):
        plan_cuda([torch.empty(1, 1, 1, 1)], [huge], 1, 1, 0, engine=emulated)
