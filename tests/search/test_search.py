"""The CPU engine against float64 brute force, over awkward shapes."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from engine_outputs import SIMD
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_cases import CASES, Case, gallery_index, pyramid, smooth
from search_checks import assert_exact

import fastspade
from fastspade import knn, pyramid_knn
from fastspade.search import last_statistics, reference
from fastspade.search.cpu import search_cpu


def run(case: Case, **features):
    query = pyramid(case, case.queries, seed=1, **features)
    gallery = pyramid(case, case.images, seed=2, **features)
    index = gallery_index(case)
    found = pyramid_knn(query, gallery, case.kappa, gallery_index=index, upsample=case.upsample)
    assert_exact(found, query, gallery, case.kappa, gallery_index=index, upsample=case.upsample)
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_matches_float64_brute_force_on_drawn_shapes(data):
    height, width = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    levels = []
    for _ in range(data.draw(st.integers(1, 4))):
        levels.append((data.draw(st.integers(1, 40)), height, width))
        height, width = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    images = data.draw(st.integers(1, 3))
    case = Case(
        "drawn",
        tuple(levels),
        queries=data.draw(st.integers(1, 2)),
        images=images,
        kappa=data.draw(st.integers(1, min(20, images * levels[0][1] * levels[0][2]))),
        upsample=data.draw(st.sampled_from(["bilinear", "nearest"])),
    )
    run(case, mean=data.draw(st.sampled_from([0.0, 100.0])))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_thread_count_does_not_change_a_bit(case):
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(run(case))
    finally:
        torch.set_num_threads(before)
    for distances, indices in results[1:]:
        assert torch.equal(distances, results[0][0]) and torch.equal(indices, results[0][1])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pruning_does_not_change_a_bit(case):
    query, gallery = smooth(case, 1, 1), smooth(case, case.images, 2)
    sampling = {"nearest": 0, "bilinear": 1}[case.upsample]
    pruned = search_cpu(query, gallery, case.kappa, None, sampling)
    full = search_cpu(query, gallery, case.kappa, None, sampling, prune=False)
    assert torch.equal(pruned[0], full[0]) and torch.equal(pruned[1], full[1])
    assert full[2]["fine_pairs"] == full[2]["pairs"]


def test_coarse_levels_rule_out_most_pairs_of_smooth_features():
    case = Case("smooth", ((16, 32, 32), (24, 16, 16), (40, 8, 8)))
    pyramid_knn(smooth(case, 1, 1), smooth(case, 2, 1), 1)
    assert last_statistics().skipped > 0.8


def test_identical_images_give_zero_at_the_lower_index():
    case = CASES[3]
    image = pyramid(case, 1, 5)
    gallery = [level.expand(3, -1, -1, -1) for level in image]
    distances, indices = pyramid_knn(image, gallery, 2, gallery_index=torch.tensor([[2, 0, 1]]))
    pixels = torch.arange(16 * 16).reshape(1, 16, 16)
    assert (distances == 0).all()
    assert torch.equal(indices[..., 0], pixels) and torch.equal(indices[..., 1], pixels + 256)


@pytest.mark.parametrize("source", range(1, 41))
def test_sampling_positions_are_torchs(source):
    # A one-channel level holding its own positions shows where each fine pixel reads from.
    for target in range(source, 90, 3):
        for upsample in ("nearest", "bilinear"):
            ramp = torch.arange(source, dtype=torch.float32).reshape(1, 1, 1, source)
            options = {"align_corners": False} if upsample == "bilinear" else {}
            wanted = F.interpolate(ramp.double(), size=(1, target), mode=upsample, **options).flatten()
            # Against a gallery of zeros the distance is the sampled position squared.
            query = [torch.zeros(1, 1, 1, target), ramp]
            gallery = [torch.zeros(1, 1, 1, target), torch.zeros(1, 1, 1, source)]
            distances, _ = pyramid_knn(query, gallery, 1, upsample=upsample)
            assert torch.allclose(distances.flatten().double(), wanted.square(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("q", "g", "d", "kappa"), [(1, 1, 1, 1), (3, 50, 7, 50), (70, 129, 33, 5), (200, 1000, 64, 1), (33, 5000, 3, 17)]
)
def test_knn_matches_float64_brute_force(q, g, d, kappa):
    generator = torch.Generator().manual_seed(q)
    query, gallery = torch.randn(q, d, generator=generator) + 20, torch.randn(g, d, generator=generator) + 20
    distances, indices = knn(query, gallery, kappa)
    wanted, places = reference.knn(query, gallery, kappa)
    assert torch.allclose(distances.double(), wanted, rtol=1e-5)
    assert torch.equal(indices, places)


def test_knn_breaks_ties_by_the_lower_index():
    gallery = torch.randn(20, 6).repeat(30, 1)
    distances, indices = knn(gallery[:20], gallery, 3)
    assert (distances == 0).all()
    assert torch.equal(indices, torch.arange(20)[:, None] + 20 * torch.arange(3))


def test_knn_is_exact_where_the_expanded_form_is_not():
    query = 1e4 + 1e-2 * torch.arange(50.0)[:, None]
    gallery = 1e4 + 1e-2 * torch.arange(0, 50.0, 0.25)[:, None]
    distances, indices = knn(query, gallery, 1)
    wanted, places = reference.knn(query, gallery, 1)
    assert torch.equal(indices, places) and torch.allclose(distances.double(), wanted, rtol=1e-6)


def test_overflow_in_the_screen_hides_nothing():
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(40, 8, generator=generator), torch.randn(300, 8, generator=generator)
    query[3] = gallery[7] = 6e18  # a squared distance fits in float32, the sum of two squared norms does not
    distances, indices = knn(query, gallery, 2)
    wanted, places = reference.knn(query, gallery, 2)
    assert torch.equal(indices, places)
    assert torch.allclose(distances.double(), wanted.float().double(), rtol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_non_finite_features_are_refused_by_name(bad, side):
    case = CASES[3]
    features = {"query": pyramid(case, 1, 1), "gallery": pyramid(case, 3, 2)}
    features[side][1][0, 5, 2, 3] = bad
    with pytest.raises(ValueError, match=rf"{side}\[1\].*image 0") as caught:
        pyramid_knn(features["query"], features["gallery"], 1)
    assert isinstance(caught.value, fastspade.FastspadeError)


def test_another_thread_runs_during_a_search_and_its_ctrl_c_stops_it(monkeypatch):
    """The search would take long. The thread can see it under way only where the engine has released Python's lock."""
    query, gallery = torch.randn(40_000, 64), torch.randn(400_000, 64)
    main, empty, outputs = threading.get_ident(), torch.empty, []

    def press() -> None:
        while sys._current_frames()[main].f_code is not search_cpu.__code__:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    def unwritten(*size: int, **options) -> torch.Tensor:
        if not outputs:
            threading.Thread(target=press).start()
        outputs.append(empty(*size, **options).fill_(-1))
        return outputs[-1]

    monkeypatch.setattr(torch, "empty", unwritten)
    with pytest.raises(KeyboardInterrupt):
        knn(query, gallery, 1)
    assert len(outputs) == 2 and all((output == -1).any() for output in outputs)


def test_build_info_tells_what_runs():
    info = fastspade.build_info()
    assert info["version"] == fastspade.__version__
    assert info["simd"] in SIMD and info["simd"] != "generic_integer"  # which is for tests alone
    assert info["threads"] == torch.get_num_threads()
    assert isinstance(info["cuda_architectures"], list)
