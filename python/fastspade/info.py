"""What this build is and what it will use."""

from __future__ import annotations

from typing import TypedDict

from fastspade._version import __version__


class BuildInfo(TypedDict):
    version: str
    compiler: str
    simd: str
    cuda_architectures: list[str]
    threads: int
    torch: str


def build_info() -> BuildInfo:
    """Version, compiler, SIMD level picked at run time, CUDA architectures built (empty list: none), threads, torch."""
    import torch

    from fastspade.search.cpu import compiled_engine

    engine = compiled_engine()
    return {
        "version": __version__,
        "compiler": engine.compiler,
        "simd": engine.simd(),
        "cuda_architectures": engine.cuda_architectures.split(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
