"""The engines as functions of one signature, cases that reach the CUDA plan's branches, and a check against float64."""

from __future__ import annotations

from search_cases import CASES, Case, gallery_index, pyramid
from search_checks import assert_exact

from fastspade import pyramid_knn
from fastspade.search.cuda import search_cuda

UPSAMPLES = {"nearest": 0, "bilinear": 1}
SOME = [case for case in CASES if case.name in ("paper_like", "odd_ratio", "one_level")]
# Shapes that make the CUDA engine's plan go its different ways: tiles of 32, 64 and 128 rows, rings that wrap, levels
# that are interpolated beforehand, several row tiles with a ragged last one, long and short lists.
KERNEL_CASES = [
    Case("ring_wraps", ((20, 40, 12), (70, 20, 6), (10, 10, 3)), images=2, kappa=8),
    Case("tall_levels", ((8, 64, 9), (8, 31, 5), (8, 15, 2), (8, 4, 1)), images=1, kappa=3),
    Case("close_resolutions", ((10, 20, 20), (12, 18, 18), (14, 9, 9)), images=2, kappa=1),
    Case("five_resolutions", ((4, 32, 16), (4, 16, 16), (5, 16, 8), (6, 8, 4), (7, 2, 2)), images=2, kappa=17),
    Case("wide", ((6, 3, 300), (9, 2, 150), (5, 1, 75)), images=2, kappa=2),
    Case("long_lists", ((5, 12, 14), (4, 6, 7)), images=4, kappa=200),
]


def emulated_search(engine, bfloat16=False, seed=0, device=(232448, 8), check=True):
    def search(query, gallery, kappa, *, gallery_index=None, upsample="bilinear", precision="exact"):
        engine.set_seed(seed)
        engine.set_device(*device)
        distances, indices, _ = search_cuda(
            query, gallery, None, kappa, gallery_index, UPSAMPLES[upsample], precision == "exact", bfloat16, engine, check
        )
        shape = (query[0].shape[0], *query[0].shape[2:], kappa)
        return distances.reshape(shape), indices.reshape(shape)

    return search


def cuda_search(query, gallery, kappa, *, gallery_index=None, **options):
    index = None if gallery_index is None else gallery_index.cuda()
    found = pyramid_knn([t.cuda() for t in query], [t.cuda() for t in gallery], kappa, gallery_index=index, **options)
    return tuple(t.cpu() for t in found)


def check(search, case: Case, **features):
    query, gallery = pyramid(case, case.queries, seed=1, **features), pyramid(case, case.images, seed=2, **features)
    index = gallery_index(case)
    found = search(query, gallery, case.kappa, gallery_index=index, upsample=case.upsample)
    assert_exact(found, query, gallery, case.kappa, gallery_index=index, upsample=case.upsample)
    return found
