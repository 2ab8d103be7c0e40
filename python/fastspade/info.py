"""What this build is and what it will use."""

from __future__ import annotations

from typing import Any

from fastspade._version import __version__


def build_info() -> dict[str, Any]:
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
