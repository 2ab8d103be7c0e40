"""The search with Hopper's instructions, its own kernel source run on the emulated machine, against float64 brute force."""

from __future__ import annotations

import pytest
import torch
from engines import KERNEL_CASES, SOME, UPSAMPLES, check, emulated_search
from search_cases import CASES, Case, gallery_index, nearly_equal, pyramid
from search_checks import assert_exact

from fastspade import knn
from fastspade.errors import InputError
from fastspade.search.cuda import plan_cuda, search_cuda

H100 = (232448, 8, True)  # shared memory of a block, multiprocessors (few, so that small cases fill them), sm_90a
# Several query tiles with a ragged last one, steps beyond the stages, rings that wrap, patches that overhang on both sides.
SM90_CASES = [
    Case("many_steps", ((300, 13, 17), (400, 7, 9)), images=2, kappa=2),
    Case("overhanging_patches", ((20, 21, 27), (30, 9, 11), (10, 3, 4)), images=2, kappa=3),
    Case("long_run", ((70, 1, 700),), images=3, kappa=2),
]


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", "sm90a")


def sm90(engine, seed=0, **options):
    return emulated_search(engine, seed=seed, device=H100, **options)


def planned(engine, case: Case, device=H100, kappa=None):
    engine.set_device(*device)
    query, gallery = pyramid(case, case.queries, 1), pyramid(case, case.images, 2)
    return plan_cuda(query, gallery, kappa or case.kappa, case.chosen or case.images, UPSAMPLES[case.upsample], engine=engine)


@pytest.mark.parametrize("case", CASES + KERNEL_CASES + SM90_CASES, ids=lambda case: case.name)
def test_matches_float64_brute_force(emulated, case):
    assert planned(emulated, case)["path"] == "sm90a"
    check(sm90(emulated), case)


@pytest.mark.parametrize("case", [*SOME, *SM90_CASES, KERNEL_CASES[0]], ids=lambda case: case.name)
def test_neither_the_order_of_threads_nor_late_copies_and_products_change_a_bit(emulated, case, monkeypatch):
    query, gallery = pyramid(case, case.queries, 1), pyramid(case, case.images, 2)
    results = [sm90(emulated, seed=seed)(query, gallery, case.kappa, upsample=case.upsample) for seed in range(5)]
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", "sm80")
    results.append(emulated_search(emulated)(query, gallery, case.kappa, upsample=case.upsample))
    for found in results[1:]:
        assert torch.equal(found[0], results[0][0]) and torch.equal(found[1], results[0][1])


@pytest.mark.parametrize("case", [SOME[1], SM90_CASES[0]], ids=lambda case: case.name)
def test_bfloat16_operands_give_the_same_answer(emulated, case):
    check(sm90(emulated, bfloat16=True), case)


@pytest.mark.parametrize("kappa", [1, 8, 64])
@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_kappa_and_upsampling_with_a_batch(emulated, kappa, upsample):
    check(
        sm90(emulated),
        Case("batch", ((12, 12, 11), (20, 6, 6), (9, 3, 3)), queries=3, images=5, kappa=kappa, upsample=upsample, chosen=2),
    )


@pytest.mark.parametrize(("q", "g", "d", "kappa"), [(1, 1, 1, 1), (130, 129, 33, 5), (40, 3000, 16, 2)])
def test_knn_of_plain_vectors(emulated, q, g, d, kappa):
    generator = torch.Generator().manual_seed(3)
    query, gallery = torch.randn(q, d, generator=generator), torch.randn(g, d, generator=generator)
    as_image = [matrix.t()[None, :, :, None] for matrix in (query, gallery)]
    distances, indices = sm90(emulated)([as_image[0]], [as_image[1]], kappa, upsample="nearest")
    wanted, places = knn(query, gallery, kappa)
    torch.testing.assert_close(distances.reshape(q, kappa), wanted, rtol=1e-6, atol=0)
    assert torch.equal(indices.reshape(q, kappa), places)


@pytest.mark.parametrize("shared_bytes", [120_000, 150_000])
def test_less_shared_memory_means_fewer_stages_and_lists_elsewhere(emulated, shared_bytes):
    case = KERNEL_CASES[0]
    plan = planned(emulated, case, (shared_bytes, 8, True))
    assert plan["path"] == "sm90a" and plan["shared_bytes"] <= shared_bytes
    assert (plan["stages"], plan["lists_on_chip"]) != (4, True)
    check(emulated_search(emulated, device=(shared_bytes, 8, True)), case)


def test_entries_outside_the_gallery_are_skipped(emulated):
    case = Case("skip", ((7, 9, 8), (5, 5, 4)), images=4)
    query, gallery = pyramid(case, 2, 1), pyramid(case, 4, 2)
    plain = sm90(emulated)(query, gallery, 2, gallery_index=torch.tensor([[0, 2], [1, 3]]))
    holes = sm90(emulated)(query, gallery, 2, gallery_index=torch.tensor([[0, -1, 2], [99, 1, 3]]))
    for a, b in zip(plain, holes, strict=True):
        assert torch.equal(a, b)


def test_rows_that_cannot_be_certified_are_counted_and_redone(emulated):
    emulated.set_seed(0)
    emulated.set_device(*H100)
    generator = torch.Generator().manual_seed(5)
    gallery = torch.randn(1, 6, 200, 1, generator=generator)
    gallery[:, :, 50:90] = nearly_equal(gallery[:, :, 50:51].expand(-1, -1, 40, -1))
    distances, indices, counters = search_cuda([gallery[:, :, 45:55].clone()], [gallery], None, 1, None, 0, True, engine=emulated)
    assert counters[0] == 5 and (distances == 0).all()
    assert torch.equal(indices.flatten(), torch.arange(45, 55))


@pytest.mark.parametrize("side", ["query", "gallery"])
def test_non_finite_features_stay_where_they_are(emulated, side):
    """A NaN reaches only what is interpolated from it, in a patch as in a run."""
    case = SOME[1]
    query, gallery = pyramid(case, 1, 1), pyramid(case, 2, 2)
    if side == "query":
        plain = sm90(emulated)(query, gallery, 1)
        query[0][0, 3, 2, 5] = float("nan")
        distances, _ = sm90(emulated, check=False)(query, gallery, 1)
        assert torch.isnan(distances).sum() == 1 and torch.isnan(distances[0, 2, 5]).all()
        distances[0, 2, 5] = plain[0][0, 2, 5]
        assert torch.equal(distances, plain[0])
    else:
        gallery[1][1, 2, :2, :2] = float("nan")
        emulated.set_seed(0)
        results = []
        for path, device in (("sm90a", H100), ("sm80", (232448, 8))):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("FASTSPADE_CUDA_PATH", path)
                results.append(emulated_search(emulated, device=device, check=False)(query, gallery, 1))
        assert torch.equal(results[0][1], results[1][1])
        torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0, equal_nan=True)


# -- which search is taken


def paper(images: int = 50):
    """The paper's shapes, as strides tell them without the memory."""
    return [torch.empty(1).expand(images, *shape) for shape in ((256, 56, 56), (512, 28, 28), (1024, 14, 14))]


def plan_of_paper(engine, images, device=(232448, 132, True), kappa=1, query_images=1):
    engine.set_device(*device)
    return plan_cuda(paper(query_images), paper(images), kappa, images, 1, engine=engine)


@pytest.mark.parametrize("kappa", [1, 5, 64])
def test_the_paper_s_shapes_run_on_sm90_with_tall_tiles_and_three_stages(emulated, monkeypatch, kappa):
    monkeypatch.delenv("FASTSPADE_CUDA_PATH")
    plan = plan_of_paper(emulated, 50, kappa=kappa)
    assert plan["path"] == "sm90a" and plan["groups"] == 3 and plan["shared_bytes"] <= 232448
    assert (plan["tile_rows"], plan["stages"]) == ((96, 2) if kappa == 64 else (128, 3))


def test_few_queries_and_other_devices_take_the_other_search(emulated, monkeypatch):
    monkeypatch.delenv("FASTSPADE_CUDA_PATH")
    assert plan_of_paper(emulated, 1)["path"] == "sm80"  # 25 blocks for 132 multiprocessors
    assert plan_of_paper(emulated, 50, (232448, 132, False))["path"] == "sm80"
    emulated.set_device(232448, 132, True)
    assert (
        plan_cuda([torch.empty(1, 128, 64, 1)], [torch.empty(1, 128, 1, 1).expand(1, 128, 10**6, 1)], 1, 1, 0, engine=emulated)[
            "path"
        ]
        == "sm80"
    )
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", "sm80")
    assert plan_of_paper(emulated, 50)["path"] == "sm80"


def test_asking_for_what_cannot_be_had_says_why(emulated, monkeypatch):
    with pytest.raises(InputError, match="compute capability 9.0 and a build with code for sm_90a"):
        plan_of_paper(emulated, 50, (232448, 132, False))
    with pytest.raises(InputError, match="cannot hold .* bytes of coarse values beside two stages"):
        plan_of_paper(emulated, 50, (110_000, 132, True))
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", "fast")
    with pytest.raises(InputError, match="FASTSPADE_CUDA_PATH must be one of auto, sm80, sm90a, got 'fast'"):
        plan_of_paper(emulated, 50)


def test_a_fault_free_answer_needs_no_redo(emulated):
    """The bounds are tight enough: on random features every row is certified."""
    case = SOME[1]
    emulated.set_device(*H100)
    query, gallery = pyramid(case, case.queries, 1), pyramid(case, case.images, 2)
    distances, indices, counters = search_cuda(query, gallery, None, case.kappa, gallery_index(case), 1, False, engine=emulated)
    assert counters[0] == 0
    shape = (case.queries, *case.levels[0][1:], case.kappa)
    assert_exact(
        (distances.reshape(shape), indices.reshape(shape)), query, gallery, case.kappa, gallery_index=gallery_index(case)
    )
