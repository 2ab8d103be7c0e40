"""Searches over guarded memory, a program: it ends with SIGSEGV where anything outside a tensor is touched.

    python tests/programs/guarded_searches.py cpu                     # every shape, layout and element type, both ends of memory
    python tests/programs/guarded_searches.py emulated MODULE.so      # the same of the CUDA engine, its kernels run on the host

Prints how many searches gave the same bits as ordinary tensors; ends with status 1 where one did not, with 3 where
FASTSPADE_SIMD asks for kernels that are not to be had.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from guarded_memory import LAYOUTS, Guarded, guarded
from search_cases import CASES, gallery_index, pyramid

from fastspade import build_info, knn, pyramid_knn
from fastspade.search.cpu import compiled_engine, describe
from fastspade.search.cuda import search_cuda
from fastspade.search.validation import UPSAMPLES

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
VECTORS = ((1, 50, 3, 2), (7, 300, 130, 5), (40, 99, 64, 1), (100, 200, 37, 20))  # queries, gallery, channels, kappa
EMULATED = ("one_pixel", "one_level", "two_levels", "same_resolution", "one_row")  # slow: small ones
Answer = tuple[torch.Tensor, torch.Tensor]


def output(shape: tuple[int, int], dtype: torch.dtype, at_end: bool) -> torch.Tensor:
    kind = {torch.float32: np.float32, torch.int64: np.int64}[dtype]
    memory = Guarded(shape[0] * shape[1] * dtype.itemsize, at_end)
    return torch.from_numpy(memory.bytes.view(kind)).reshape(shape)


def guarded_outputs(query, gallery, kappa: int, index, upsample: str, at_end: bool) -> Answer:
    """The CPU engine itself, so that what it writes is guarded too."""
    rows = query[0].shape[0] * query[0].shape[2] * query[0].shape[3]
    distances, indices = output((rows, kappa), torch.float32, at_end), output((rows, kappa), torch.int64, at_end)
    compiled_engine().search_cpu(
        query=[describe(level) for level in query],
        gallery=[describe(level) for level in gallery],
        gallery_index=0 if index is None else index.data_ptr(),
        gallery_count=len(gallery[0]) if index is None else index.shape[1],
        kappa=kappa,
        upsample=UPSAMPLES[upsample],
        distances=distances.data_ptr(),
        indices=indices.data_ptr(),
        threads=2,
        prune=True,
    )
    return distances, indices


def guarded_index(index: torch.Tensor | None, at_end: bool) -> torch.Tensor | None:
    if index is None:
        return None
    memory = Guarded(index.numel() * 8, at_end)
    tensor = torch.from_numpy(memory.bytes.view(np.int64)).reshape(index.shape)
    tensor.copy_(index)
    memory.read_only()
    return tensor


def same(found: Answer, wanted: Answer) -> bool:
    return all(torch.equal(a.reshape(b.shape), b) for a, b in zip(found, wanted, strict=True))


def pyramids(search: Callable[..., list[Answer]], names: set[str]) -> Iterator[bool]:
    """search(query, gallery, kappa, index, upsample, at_end) on guarded tensors; its answers must be pyramid_knn's."""
    for case, dtype, layout in product(CASES, DTYPES, LAYOUTS):
        if case.name not in names:
            continue
        query, gallery = pyramid(case, case.queries, 1, dtype), pyramid(case, case.images, 2, dtype)
        index = gallery_index(case)
        stored = [level[:1].expand(len(level), -1, -1, -1) for level in gallery] if layout == "one_image" else gallery
        wanted = pyramid_knn(query, stored, case.kappa, gallery_index=index, upsample=case.upsample)
        for at_end in (True, False):
            asked = [guarded(level, "planes" if layout == "one_image" else layout, at_end) for level in query]
            kept = [guarded(level, layout, at_end) for level in gallery]
            for found in search(asked, kept, case.kappa, guarded_index(index, at_end), case.upsample, at_end):
                yield same(found, wanted)


def vectors() -> Iterator[bool]:
    generator = torch.Generator().manual_seed(3)
    for (queries, count, channels, kappa), dtype in product(VECTORS, DTYPES):
        query = torch.randn(queries, channels, generator=generator).to(dtype)
        gallery = torch.randn(count, channels, generator=generator).to(dtype)
        wanted = knn(query, gallery, kappa)
        for layout, at_end in product(("planes", "padded", "transposed"), (True, False)):
            found = knn(
                guarded(query[None, None], layout, at_end)[0, 0], guarded(gallery[None, None], layout, at_end)[0, 0], kappa
            )
            yield same(found, wanted)


def cpu(query, gallery, kappa: int, index, upsample: str, at_end: bool) -> list[Answer]:
    public = pyramid_knn(query, gallery, kappa, gallery_index=index, upsample=upsample)
    return [public, guarded_outputs(query, gallery, kappa, index, upsample, at_end)]


def emulated(path: Path) -> Callable[..., list[Answer]]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    engine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(engine)
    engine.set_device(232448, 8, True)  # one that has both search kernels; FASTSPADE_CUDA_PATH chooses

    def search(query, gallery, kappa: int, index, upsample: str, at_end: bool) -> list[Answer]:
        return [search_cuda(query, gallery, None, kappa, index, UPSAMPLES[upsample], redo=True, engine=engine)[:2]]

    return search


def fault(how: str) -> None:
    """Ends the process: read-after, read-before or write-input."""
    query, gallery = (guarded(torch.ones(1, 3, 40, 40), "planes", how == "read-after") for _ in range(2))
    address, code, shape, strides = describe(gallery)
    shape = list(shape)
    if how == "read-after":
        shape[2] += 1
    if how == "read-before":
        address -= 4
    distances, indices = output((1600, 1), torch.float32, True), output((1600, 1), torch.int64, True)
    written = query.data_ptr() if how == "write-input" else distances.data_ptr()
    compiled_engine().search_cpu(
        [describe(query)], [(address, code, shape, strides)], 0, 1, 1, 0, written, indices.data_ptr(), 1, True
    )


def main(what: str, *rest: str) -> int:
    torch.set_num_threads(2)
    if os.environ.get("FASTSPADE_SIMD", build_info()["simd"]) != build_info()["simd"]:
        return 3
    if what == "cpu":
        outcomes = [*pyramids(cpu, {case.name for case in CASES}), *vectors()]
    else:
        outcomes = list(pyramids(emulated(Path(rest[0])), set(EMULATED)))
    print(sum(outcomes), "of", len(outcomes))
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
