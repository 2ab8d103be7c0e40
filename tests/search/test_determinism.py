"""Same inputs, same bits: over processes, threads, batches, order of the gallery and plans. See docs/determinism.md."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from engines import emulated_search
from search_cases import Case, gallery_index, pyramid
from tiny import LAYERS, picture
from torch import nn

from fastspade import Spade, pyramid_knn

CASE = Case("determinism", ((20, 21, 27), (30, 11, 14), (10, 6, 7)), queries=3, images=5, kappa=4)

PROGRAM = """
import hashlib, sys
import torch
from search_cases import Case, pyramid
from fastspade import pyramid_knn
torch.set_num_threads(int(sys.argv[1]))
case = Case("determinism", ((20, 21, 27), (30, 11, 14), (10, 6, 7)), queries=3, images=5, kappa=4)
found = pyramid_knn(pyramid(case, 3, 1), pyramid(case, 5, 2), 4)
print(hashlib.sha256(b"".join(part.numpy().tobytes() for part in found)).hexdigest())
"""


def digest(found) -> str:
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in found)).hexdigest()


@pytest.fixture
def query():
    return pyramid(CASE, CASE.queries, 1)


@pytest.fixture
def gallery():
    return pyramid(CASE, CASE.images, 2)


@pytest.mark.slow
def test_every_run_and_thread_count_gives_the_same_bits(query, gallery, request):
    wanted = digest(pyramid_knn(query, gallery, 4))
    for threads in ("1", "2", "3"):
        run = [sys.executable, "-c", PROGRAM, threads]
        assert subprocess.run(run, cwd=request.path.parent, capture_output=True, text=True, check=True).stdout.strip() == wanted


def test_searching_one_image_or_several_gives_the_same_bits(query, gallery):
    together = pyramid_knn(query, gallery, 4)
    for i in range(CASE.queries):
        alone = pyramid_knn([level[i : i + 1] for level in query], gallery, 4)
        assert all(torch.equal(one[0], several[i]) for one, several in zip(alone, together, strict=True))


def test_the_order_of_the_gallery_changes_no_distance(query, gallery):
    """Indices name the same pixels, moved; ties, of which there are none here, go to the lower index."""
    order = torch.tensor([3, 0, 4, 2, 1])
    distances, indices = pyramid_knn(query, gallery, 4)
    moved, places = pyramid_knn(query, [level[order] for level in gallery], 4)
    pixels = gallery[0].shape[2] * gallery[0].shape[3]
    assert torch.equal(moved, distances)
    assert torch.equal(order[places // pixels] * pixels + places % pixels, indices)


def test_a_search_of_parts_is_the_search_of_the_whole(query, gallery):
    distances, indices = pyramid_knn(query, gallery, 4)
    pixels = gallery[0].shape[2] * gallery[0].shape[3]
    parts = [pyramid_knn(query, [level[a:b] for level in gallery], 4) for a, b in ((0, 2), (2, 5))]
    both = torch.cat([parts[0][0], parts[1][0]], dim=-1), torch.cat([parts[0][1], parts[1][1] + 2 * pixels], dim=-1)
    order = np.lexsort((both[1].numpy(), both[0].numpy()), axis=-1)[..., :4]
    assert torch.equal(both[0].gather(-1, torch.from_numpy(order)), distances)
    assert torch.equal(both[1].gather(-1, torch.from_numpy(order)), indices)


@pytest.mark.parametrize(
    "device", [(232448, 8), (101376, 2), (65536, 40)], ids=lambda device: f"{device[0]} bytes, {device[1]} multiprocessors"
)
def test_every_plan_of_the_cuda_search_gives_the_same_bits(emulated, device):
    """Tile heights, splits and rings follow the device's memory and size. Emulated on the host."""
    case = Case("plans", ((6, 9, 11), (9, 5, 6)), queries=2, images=4, kappa=3, chosen=3)
    query, gallery = pyramid(case, 2, 1), pyramid(case, 4, 2)
    wanted = pyramid_knn(query, gallery, 3, gallery_index=gallery_index(case))
    found = emulated_search(emulated, device=device)(query, gallery, 3, gallery_index=gallery_index(case))
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


class Pooling(nn.Module):
    """A network that only averages: its features do not depend on the batch, as a convolution's may."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.AvgPool2d(4), nn.AvgPool2d(2), nn.AvgPool2d(2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(images)))


@pytest.mark.parametrize("image_score", ["knn", "max", "reweighted"])
def test_equal_features_give_equal_results_at_every_batch_size(image_score):
    results = []
    for size in (1, 2, 7):
        model = Spade(
            Pooling(),
            layers=LAYERS,
            k=3,
            kappa=2,
            resize=64,
            crop=64,
            device="cpu",
            progress=False,
            batch_size=size,
            image_score=image_score,
        )
        results.append(model.fit([picture(seed) for seed in range(8)]).score([picture(seed) for seed in range(40, 47)]))
    for found in results[1:]:
        assert np.array_equal(found.image_scores, results[0].image_scores)
        assert np.array_equal(found.anomaly_maps, results[0].anomaly_maps)
