"""Threads and worker processes: the same bits, and no hanging."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny import picture, tiny_spade
from torch.utils.data import DataLoader
from worker_tasks import Pictures, scores_of

from fastspade import knn

# -- threads


@pytest.mark.parametrize("kept", ["in memory", "in a folder", "in a folder, read in parts"])
def test_eight_threads_score_the_same_bits_as_one(tmp_path, kept):
    model = tiny_spade()
    model.fit([picture(seed) for seed in range(8)], path=None if kept == "in memory" else tmp_path / "model")
    if kept.endswith("parts"):
        model.memory_limit = 3 * sum(level[0].numel() * 4 for level in model.bank.pyramid)
    batches = [[picture(100 + 3 * i + j) for j in range(3)] for i in range(8)]
    wanted = [model.score(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for found, one in zip(pool.map(model.score, batches), wanted, strict=True):
                assert np.array_equal(found.image_scores, one.image_scores)
                assert np.array_equal(found.anomaly_maps, one.anomaly_maps)


def test_threads_that_search_with_different_thread_counts_do_not_disturb_each_other():
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(300, 20, generator=generator), torch.randn(4000, 20, generator=generator)
    wanted = knn(query, gallery, 5)

    def search(threads: int):
        torch.set_num_threads(threads)
        return [knn(query, gallery, 5) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(search, (1, 2, 3, 4)):
            assert all(torch.equal(a, b) for one in found for a, b in zip(one, wanted, strict=True))


# -- processes


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.timeout(120)
def test_worker_processes_fit_and_score_the_same_bits(start):
    """The parent has used its threads before, which a forked worker does not inherit."""

    def loader(first: int, count: int, workers: int) -> DataLoader:
        named = {"multiprocessing_context": start} if workers else {}
        return DataLoader(Pictures(first, count, search=workers > 0), batch_size=2, num_workers=workers, **named)

    wanted = tiny_spade().fit(loader(0, 6, 0)).score(loader(50, 4, 0))
    found = tiny_spade().fit(loader(0, 6, 2)).score(loader(50, 4, 2))
    assert np.array_equal(found.image_scores, wanted.image_scores)
    assert np.array_equal(found.anomaly_maps, wanted.anomaly_maps)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.timeout(120)
def test_a_model_scores_in_worker_processes(tmp_path, start):
    path = str(tmp_path / "model")
    tiny_spade().fit([picture(seed) for seed in range(5)]).save(path)
    wanted = scores_of(path)
    # One torch thread per worker, as data loaders have it: torch's OpenMP threads do not survive a fork, whoever uses them.
    with multiprocessing.get_context(start).Pool(2, torch.set_num_threads, (1,)) as pool:
        assert pool.map(scores_of, [path] * 4) == [wanted] * 4
