"""Features that 16 bits do not hold, or that are not finite: every output is written, whatever the order of threads, and both
engines raise the same error."""

from __future__ import annotations

import pytest
import torch

from fastspade.errors import InputError
from fastspade.search.cpu import search_cpu
from fastspade.search.cuda import search_cuda
from fastspade.search.streamed import search_streamed
from fastspade.search.validation import check_answer

UNWRITTEN = 77  # more than any pixel's number here
SEEDS = range(6)
KERNELS = {"sm80": (232448, 8), "sm90a": (232448, 1, True)}


@pytest.fixture(params=KERNELS)
def search(request, emulated, monkeypatch):
    """search(query, gallery, kappa, exact) on the emulated device, outputs and workspace filled beforehand: one answer, the same
    for several orders of threads."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(UNWRITTEN))
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", request.param)
    emulated.set_device(*KERNELS[request.param])

    def run(query, gallery, kappa, exact):
        answers = []
        for seed in SEEDS:
            emulated.set_seed(seed)
            answers.append(search_cuda(query, gallery, None, kappa, None, 1, exact, engine=emulated, check=False)[:2])
        for distances, indices in answers:
            assert not (distances == UNWRITTEN).any() and not (indices == UNWRITTEN).any()
            torch.testing.assert_close(distances, answers[0][0], rtol=0, atol=0, equal_nan=True)
            assert torch.equal(indices, answers[0][1])
        return answers[0]

    return run


def brute_force(query: torch.Tensor, gallery: torch.Tensor, kappa: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One level: what is no number first, then by distance, ties to the lower index."""
    vectors, stored = (level.double().permute(0, 2, 3, 1).flatten(0, 2) for level in (query, gallery))
    distances = (vectors[:, None] - stored[None]).square().sum(2)
    distances = torch.where(distances.isfinite(), distances, torch.nan).float()
    order = torch.where(distances.isnan(), -1.0, distances).sort(dim=1, stable=True).indices[:, :kappa]
    return distances.gather(1, order), order


def refusal(search, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        search(*arguments)
    return str(caught.value)


def assert_refused_alike(engine, query, gallery, kappa, text, gallery_index=None):
    expected = refusal(search_cpu, query, gallery, kappa, gallery_index, 1)
    assert text in expected
    for exact in (True, False):
        assert refusal(search_cuda, query, gallery, None, kappa, gallery_index, 1, exact, False, engine) == expected


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0, equal_nan=True)
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
def test_a_vector_beyond_16_bits_finds_itself(search, exact):
    gallery = torch.randn(1, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    gallery[0, :, 1, 1] = 1e25
    distances, indices = search([gallery[:, :, 1:2, 1:2].clone()], [gallery], 1, exact)
    assert distances.tolist() == [[0.0]] and indices.tolist() == [[4]]


@pytest.mark.parametrize("size", [1e18, 1e19, 1e20, 1e25, 1e30, 3e38])
@pytest.mark.parametrize("kappa", [1, 3, 12])
def test_large_finite_features_give_the_cpu_s_bits_or_its_error(search, emulated, size, kappa):
    generator = torch.Generator().manual_seed(1)
    query, gallery = (
        [torch.randn(n, 5, 4, 4, generator=generator), torch.randn(n, 3, 2, 2, generator=generator)] for n in (1, 3)
    )
    query[0][0, :, 1, 2], gallery[0][1, :, 2, 2], gallery[1][2, 1, 0, 1] = size, size, size
    found = search(query, gallery, kappa, True)
    search(query, gallery, kappa, False)
    if found[0].isinf().any():
        assert_refused_alike(emulated, query, gallery, kappa, "leave float32")
    else:
        expected = search_cpu(query, gallery, kappa, None, 1)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("side", ["query", "gallery", "both"])
@pytest.mark.parametrize("kappa", [1, 3])
def test_what_is_not_finite_comes_first_and_disturbs_nothing_else_and_is_refused_by_name(search, emulated, value, side, kappa):
    generator = torch.Generator().manual_seed(2)
    query, gallery = (torch.randn(n, 5, 5, 5, generator=generator) for n in (1, 2))
    if side != "gallery":
        query[0, 2, 1, 3] = value
    if side != "query":
        gallery[1, 2, 4, 0] = value
    assert_same(search([query], [gallery], kappa, True), brute_force(query, gallery, kappa))
    search([query], [gallery], kappa, False)
    where = "gallery[0] holds NaN or infinite values in image 1" if side == "gallery" else "query[0] holds NaN or infinite values"
    assert_refused_alike(emulated, [query], [gallery], kappa, where)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_only_images_that_are_searched_are_refused(search, emulated, value):
    generator = torch.Generator().manual_seed(4)
    query, gallery = (
        [torch.randn(n, 5, 6, 6, generator=generator), torch.randn(n, 3, 3, 3, generator=generator)] for n in (2, 4)
    )
    gallery[1][2, 1, 0, 2] = value
    index = torch.tensor([[0, 3], [1, 2]])
    assert_refused_alike(emulated, query, gallery, 2, "gallery[1] holds NaN or infinite values in image 2", index)
    index[1, 1] = 0
    expected = search_cpu(query, gallery, 2, index, 1)
    found = search_cuda(query, gallery, None, 2, index, 1, True, engine=emulated)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("image", [0, 4])
def test_what_is_not_finite_in_one_part_of_a_streamed_gallery_is_refused(search, emulated, value, image):
    query, gallery = (torch.randn(n, 5, 3, 3, generator=torch.Generator().manual_seed(n)) for n in (1, 5))
    gallery[image, 0, 0, 0] = value

    def part(levels, index, kappa):
        return search_cuda([query], levels, None, kappa, index, 1, True, engine=emulated, check=False)

    distances, indices, _ = search_streamed([gallery], 3, None, torch.device("cpu"), part, part_bytes=1)
    text = f"gallery[0] holds NaN or infinite values in image {image}"
    assert text in refusal(check_answer, distances, indices, [query], [gallery], None)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
def test_a_query_that_is_no_number_takes_the_first_pixels(search, exact):
    query, gallery = torch.full((1, 4, 1, 1), float("nan")), torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(3))
    distances, indices = search([query], [gallery], 3, exact)
    assert distances.isnan().all() and indices.tolist() == [[0, 1, 2]]
