"""Banks larger than the memory they may take: the same bits, and never more held than allowed."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from tiny import TinyNet, picture, tiny_spade

from fastspade import Spade, pyramid_knn
from fastspade.bank.stored import FileLevels
from fastspade.errors import DtypeError, InputError
from fastspade.search.levels import MemoryLevels, image_bytes
from fastspade.search.streamed import StreamedGallery, read_ahead, streamed_pyramid_knn

NORMAL = [picture(seed) for seed in range(9)]


def load(path, **options) -> Spade:
    return Spade.load(path, backbone=TinyNet(), device="cpu", progress=False, **options)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A bank of each storage type, made as banks grow."""
    place, found = tmp_path_factory.mktemp("banks"), {}
    for dtype in ("float32", "float16", "bfloat16"):
        found[dtype] = place / dtype
        model = tiny_spade(k=7, storage_dtype=dtype).fit(NORMAL[:5], path=found[dtype])
        model.add(NORMAL[5:7])
        model.add(NORMAL[7:])
    return found


@pytest.fixture
def path(paths):
    return paths["float32"]


def levels(images: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, *shape, generator=generator) for shape in ((7, 9, 8), (5, 5, 4))]


@pytest.mark.parametrize("chosen", [None, [[5, 1, 6, 3], [4, 1, 2, 0]], [[1, 5, 1, 1], [4, 0, 4, 0]]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_any_size_give_the_bits_of_one_search(chosen, dtype):
    query, gallery = levels(2, 1), [level.to(dtype) for level in levels(7, 2)]
    generator = torch.Generator().manual_seed(9)
    for level in gallery:  # ties and near ties across parts
        level[5] = level[1]
        level[6] = level[3] * (1 + 1e-7 * torch.randn(1, 1, 1, generator=generator)).to(dtype)
    index = None if chosen is None else torch.tensor(chosen)
    source = MemoryLevels(gallery)
    for kappa in (1, 3, 200):
        whole = pyramid_knn(query, gallery, kappa, gallery_index=index)
        for images in (1, 2, 3, 100):
            streamed = StreamedGallery(source, 2 * images * image_bytes(source))
            found = streamed_pyramid_knn(query, streamed, kappa, gallery_index=index)
            assert torch.equal(found[0], whole[0]) and torch.equal(found[1], whole[1])


def test_the_next_part_is_read_while_one_is_used():
    begun = [threading.Event() for _ in range(4)]

    class Source:
        def gather(self, images):
            begun[int(images[0])].set()
            return []

    for number, _ in enumerate(read_ahead(Source(), list(torch.arange(4).split(1)))):
        assert number == 3 or begun[number + 1].wait(60)
        assert not any(event.is_set() for event in begun[number + 2 :])  # and no more than that


LIMITED = [(dtype, {}) for dtype in ("float32", "float16", "bfloat16")]
LIMITED += [("float32", options) for options in ({"kappa": 3}, {"window": 9}, {"image_score": "reweighted"})]


@pytest.mark.parametrize(("dtype", "options"), LIMITED)
def test_a_limited_model_scores_to_the_same_bits_and_keeps_its_limit(paths, monkeypatch, dtype, options):
    path = paths[dtype]
    free = load(path)
    image = image_bytes(free.bank.snapshot.levels)
    assert image == sum(level[0].numel() for level in free.bank.pyramid) * (4 if dtype == "float32" else 2)
    limited = load(path, memory_limit=5 * image)
    whole = load(path, memory_limit=9 * image)
    for model in (free, limited, whole):
        for name, value in options.items():
            setattr(model, name, value)
    held, most, guard = [0], [0], threading.Lock()
    gather = FileLevels.gather

    def change(count):
        with guard:
            held[0] += count
            most[0] = max(most[0], held[0])

    def counted(self, images):
        change(len(images) * image)
        found = gather(self, images)
        assert sum(level.nbytes for level in found) == len(images) * image  # as stored, not widened
        weakref.finalize(found[0], change, -len(images) * image)
        return found

    monkeypatch.setattr(FileLevels, "gather", counted)
    test = [picture(seed) for seed in (100, 101, 102)]
    found = limited.score(test)
    gc.collect()
    assert 0 < most[0] <= 5 * image and held[0] == 0
    for other in (free.score(test), whole.score(test)):
        assert np.array_equal(found.anomaly_maps, other.anomaly_maps) and np.array_equal(found.image_scores, other.image_scores)
        assert np.array_equal(found.matched_image, other.matched_image) and np.array_equal(found.neighbors, other.neighbors)
    assert held[0] == 9 * image  # within the limit the whole bank is kept
    assert limited.calibrate() == whole.calibrate()


def test_mistakes_are_named(path):
    source = MemoryLevels(levels(4, 0))
    query, gallery = levels(1, 1), StreamedGallery(source)
    for call, kind, says in (
        (
            lambda: StreamedGallery(source, 2 * image_bytes(source) - 1),
            InputError,
            "memory_limit must hold the features of 2 images",
        ),
        (lambda: StreamedGallery(source, 1e9), DtypeError, "memory_limit"),
        (lambda: tiny_spade(memory_limit=0), InputError, "memory_limit"),
        (lambda: load(path, memory_limit=100).score(picture(1)), InputError, "memory_limit"),
        (
            lambda: streamed_pyramid_knn(query, gallery, 1, gallery_index=torch.tensor([[4]])),
            InputError,
            r"gallery_index .*\[0, 4\)",
        ),
        (lambda: streamed_pyramid_knn(query[:1], gallery, 1), InputError, "levels"),
        (lambda: streamed_pyramid_knn(query, gallery, 73, gallery_index=torch.tensor([[1]])), InputError, "kappa"),
    ):
        with pytest.raises(kind, match=says):
            call()


def test_an_error_while_reading_ends_the_search(path, monkeypatch):
    model = load(path, memory_limit=2 * image_bytes(load(path).bank.snapshot.levels))
    gather, calls = FileLevels.gather, []

    def fails(self, images):
        calls.append(images)
        if len(calls) == 3:
            raise OSError(5, "Input/output error")
        return gather(self, images)

    monkeypatch.setattr(FileLevels, "gather", fails)
    with pytest.raises(OSError, match="Input/output"):
        model.score(picture(1))
    monkeypatch.undo()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastspade-read")]
    assert len(model.score(picture(1))) == 1
