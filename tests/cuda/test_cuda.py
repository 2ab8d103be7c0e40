"""What only a CUDA device can show: streams, graphs, memory. The answers themselves are checked in test_engines.py."""

from __future__ import annotations

import pytest
import torch
from search_cases import CASES, Case, pyramid
from search_checks import assert_exact
from tiny import picture, tiny_spade

from fastspade import pyramid_knn
from fastspade.errors import InputError
from fastspade.search import last_statistics, reference

pytestmark = pytest.mark.gpu
CASE = next(case for case in CASES if case.name == "paper_like")
PAPER = ((256, 56, 56), (512, 28, 28), (1024, 14, 14))


def on_gpu(images: int, seed: int):
    return [level.cuda() for level in pyramid(CASE, images, seed)]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_runs_on_the_current_stream():
    query, gallery = on_gpu(2, 1), on_gpu(4, 2)
    expected = pyramid_knn(query, gallery, 3)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The features only exist on this stream, after a long wait: a search on another would read something else.
        late = [torch.zeros_like(level) for level in query]
        torch.cuda._sleep(50_000_000)
        for to, source in zip(late, query, strict=True):
            to.copy_(source)
        found = pyramid_knn(late, gallery, 3)
    stream.synchronize()
    assert equal(found, expected)


def test_refuses_what_is_not_finite_except_in_a_graph_whose_answer_is_then_nan():
    query, gallery = on_gpu(2, 1), on_gpu(4, 2)
    pyramid_knn(query, gallery, 3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        distances, _ = pyramid_knn(query, gallery, 3)
    gallery[1][2, 0, 0, 0] = torch.inf
    graph.replay()
    assert distances[..., 0].isnan().all()
    for stored in (gallery, [level.cpu() for level in gallery]):
        with pytest.raises(InputError, match=r"gallery\[1\] holds NaN or infinite values in image 2"):
            pyramid_knn(query, stored, 3)


@pytest.mark.parametrize("index", [None, [[3, 1], [0, 2]]], ids=["all", "chosen"])
def test_is_captured_in_a_graph_and_replays_on_new_features(index):
    query, gallery = on_gpu(2, 1), on_gpu(4, 2)
    index = None if index is None else torch.tensor(index, device="cuda")
    pyramid_knn(query, gallery, 3, gallery_index=index)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = pyramid_knn(query, gallery, 3, gallery_index=index)
    for seed in (5, 6):
        for level, fresh in zip(query, on_gpu(2, seed), strict=True):
            level.copy_(fresh)
        if index is not None:
            index.copy_((index + 1) % 4)
        graph.replay()
        torch.cuda.synchronize()
        assert equal(captured, pyramid_knn(query, gallery, 3, gallery_index=index))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_tensors_on_another_device_than_the_current_one():
    query, gallery = on_gpu(2, 1), on_gpu(4, 2)
    expected = pyramid_knn(query, gallery, 3)
    found = pyramid_knn([level.to("cuda:1") for level in query], [level.to("cuda:1") for level in gallery], 3)
    assert torch.cuda.current_device() == 0 and found[0].device == torch.device("cuda:1")
    assert equal([t.to("cuda:0") for t in found], expected)


def test_runs_are_identical_to_the_bit():
    query, gallery = on_gpu(2, 1), on_gpu(4, 2)
    expected = pyramid_knn(query, gallery, 3)
    for _ in range(20):
        assert equal(pyramid_knn(query, gallery, 3), expected)


@pytest.mark.parametrize("pinned", [False, True])
def test_a_host_gallery_is_streamed(pinned, monkeypatch):
    query, gallery = on_gpu(2, 1), pyramid(CASE, 4, 2)
    expected = pyramid_knn(query, [level.cuda() for level in gallery], 3)
    if pinned:
        gallery = [level.pin_memory() for level in gallery]
    for part_bytes in (1, 50_000, 1 << 30):
        monkeypatch.setattr("fastspade.search.streamed.PART_BYTES", part_bytes)
        assert equal(pyramid_knn(query, gallery, 3), expected)
    mixed = [gallery[0].half(), *gallery[1:]]
    mixed = [level.pin_memory() for level in mixed] if pinned else mixed
    assert equal(pyramid_knn(query, mixed, 3), pyramid_knn(query, [level.cuda() for level in mixed], 3))
    index = torch.tensor([[3, 1], [2, 0]], device="cuda")
    chosen = pyramid_knn(query, gallery, 3, gallery_index=index)
    assert equal(chosen, pyramid_knn(query, [level.cuda() for level in gallery], 3, gallery_index=index))


@pytest.mark.parametrize("chosen", [False, True])
def test_a_pinned_gallery_is_streamed_without_waiting(chosen, monkeypatch):
    """Up to the answer, which is waited for to be checked. With gallery_index in host memory, where the host reads which images to
    bring."""
    monkeypatch.setattr("fastspade.search.streamed.PART_BYTES", 1)
    monkeypatch.setattr("fastspade.search.streamed.check_answer", lambda *_: None)
    query, gallery = on_gpu(2, 1), [level.pin_memory() for level in pyramid(CASE, 4, 2)]
    index = torch.tensor([[3, 1, 2], [2, 1, 3]]) if chosen else None  # neighbouring images: sent as they lie
    on_device = None if index is None else index.cuda()
    expected = pyramid_knn(query, [level.cuda() for level in gallery], 3, gallery_index=on_device)
    pyramid_knn(query, gallery, 3, gallery_index=index)  # pinned memory is allocated once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(500_000_000)
        mark = torch.cuda.Event()
        found = pyramid_knn(query, gallery, 3, gallery_index=index)
        mark.record()
        assert not mark.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert equal(found, expected)


def test_running_out_of_memory_is_torchs_error_and_leaves_the_process_usable():
    query, gallery = on_gpu(2, 1), on_gpu(4, 2)
    expected = pyramid_knn(query, gallery, 1)
    fraction = torch.cuda.memory_allocated() + (1 << 20)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(fraction / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            pyramid_knn(query, gallery, 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert equal(pyramid_knn(query, gallery, 1), expected)


def test_paper_sized_search_is_exact_within_256_mebibytes():
    generator = torch.Generator("cuda").manual_seed(0)
    query = [torch.randn(1, *level, generator=generator, device="cuda") for level in PAPER]
    gallery = [torch.randn(50, *level, generator=generator, device="cuda") for level in PAPER]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    distances, indices = pyramid_knn(query, gallery, 1)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before <= 256 << 20
    assert last_statistics().uncertain_rows < 100
    assert (distances > 0).all() and ((indices >= 0) & (indices < 50 * 3136)).all()
    # The same channels on a grid that float64 brute force can do.
    query, gallery = ([level[:3, :, : level.shape[2] // 4, : level.shape[3] // 4] for level in side] for side in (query, gallery))
    assert_exact(pyramid_knn(query, gallery, 1), query, gallery, 1)


@pytest.mark.parametrize("kernel", ["sm80", "sm90a"])
@pytest.mark.parametrize("kappa", [1, 5, 20, 50, 64])
def test_lists_of_every_length_at_the_paper_s_shapes(kappa, kernel, monkeypatch):
    """They decide tiles, steps and stages (docs/cuda_search.md); small shapes leave room for all of them."""
    if kernel == "sm90a" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the sm_90a search needs compute capability 9.0")
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", kernel)
    case = Case("paper", PAPER, images=8)
    query, gallery = pyramid(case, 1, 1), pyramid(case, 8, 2)
    found = pyramid_knn([level.cuda() for level in query], [level.cuda() for level in gallery], kappa)
    distances, indices = (t.cpu().reshape(56 * 56, kappa) for t in found)
    # Rows of the first tile, from the middle, and of the ragged last one.
    rows = torch.tensor([*range(0, 128, 8), *range(1500, 1516), *range(3120, 3136)])
    vectors, stored = (reference.descriptors(side, "bilinear").flatten(0, 1) for side in (query, gallery))
    true = torch.cdist(vectors[rows], stored, compute_mode="donot_use_mm_for_euclid_dist").square()
    wanted, places = true.topk(kappa, largest=False)
    torch.testing.assert_close(distances[rows].double(), wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(true.gather(1, indices[rows]), wanted, rtol=1e-5, atol=0)
    assert (indices[rows] == places).float().mean() > 0.999


@pytest.mark.parametrize("share", [0.6, 0.0], ids=["resident", "streamed"])
def test_a_whole_score_on_the_device_agrees_with_the_host(share, monkeypatch):
    monkeypatch.setattr("fastspade.spade.device_bank.SHARE_OF_FREE_MEMORY", share)
    normal, test = [picture(seed) for seed in range(6)], [picture(seed) for seed in range(10, 13)]
    torch.backends.cudnn.allow_tf32 = False
    results = [tiny_spade(device=device, k=3).fit(normal).score(test) for device in ("cpu", "cuda")]
    host, device = results
    torch.testing.assert_close(torch.as_tensor(device.image_scores), torch.as_tensor(host.image_scores), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(torch.as_tensor(device.anomaly_maps), torch.as_tensor(host.anomaly_maps), rtol=1e-2, atol=1e-4)
