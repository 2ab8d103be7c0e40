"""The CPU engine's outputs over the shared cases, written to a file: run under every instruction set and compared.

FASTSPADE_SIMD=avx2 python tests/programs/engine_outputs.py found.pt      # ends with status 3 where avx2 is not to be had
"""

from __future__ import annotations

import os
import sys

import torch
from search_cases import CASES, gallery_index, pyramid

from fastspade import build_info, knn, pyramid_knn

SIMD = ("generic", "generic_integer", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "neon", "neon_dot")


def vectors(count: int, channels: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, generator=generator)


def compute() -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for case in CASES:
        query, gallery = pyramid(case, case.queries, 1), pyramid(case, case.images, 2)
        for form in (torch.contiguous_format, torch.channels_last):
            levels = [[level.contiguous(memory_format=form) for level in side] for side in (query, gallery)]
            found += pyramid_knn(*levels, case.kappa, gallery_index=gallery_index(case), upsample=case.upsample)
    for queries, count, channels, kappa in ((1, 50, 3, 2), (7, 3000, 130, 5), (40, 999, 64, 1), (100, 2000, 37, 20)):
        found += knn(vectors(queries, channels, 1), vectors(count, channels, 2), kappa)
    return found


if __name__ == "__main__":
    wanted = os.environ.get("FASTSPADE_SIMD")
    if wanted is not None and build_info()["simd"] != wanted:
        sys.exit(3)
    torch.save(compute(), sys.argv[1])
