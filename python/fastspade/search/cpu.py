"""The CPU engine: allocates outputs and passes addresses to the compiled search."""

from __future__ import annotations

from types import ModuleType

import torch

from fastspade.errors import EngineError, InputError
from fastspade.search.validation import DTYPES, check_answer


def compiled_engine() -> ModuleType:
    """fastspade._engine, whose functions _engine.pyi declares. Raises EngineError where it cannot be loaded."""
    try:
        from fastspade import _engine
    except ImportError as error:
        raise EngineError(f"the compiled engine fastspade._engine could not be loaded ({error}); reinstall fastspade") from error
    return _engine


def describe(level: torch.Tensor) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    """What the engine needs to read a tensor: address, element type, shape, strides in elements."""
    return level.data_ptr(), DTYPES[level.dtype], level.shape, level.stride()


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy where its elements lie at odd addresses (torch.frombuffer allows that)."""
    tensor = tensor.detach()
    return tensor if tensor.data_ptr() % tensor.element_size() == 0 else tensor.clone()


def search_cpu(
    query: list[torch.Tensor],
    gallery: list[torch.Tensor],
    kappa: int,
    gallery_index: torch.Tensor | None,
    upsample: int,
    prune: bool = True,
    radius: tuple[int, int] = (-1, -1),
) -> tuple[torch.Tensor, torch.Tensor, dict[str, int]]:
    """Distances (B * P, kappa) float32, flat indices (B * P, kappa) int64, and the search's counts.

    `prune=False` evaluates every pair: the same results, for tests and measurements. radius: only pairs at most so many rows and
    columns of the finest level apart; (-1, -1) is all. Where a query has fewer than kappa, the rest is infinity and -1.
    Raises as check_answer does.
    """
    engine = compiled_engine()
    query, gallery = [aligned(q) for q in query], [aligned(g) for g in gallery]
    gallery_index = None if gallery_index is None else aligned(gallery_index)
    rows = query[0].shape[0] * query[0].shape[2] * query[0].shape[3]
    try:
        distances = torch.empty(rows, kappa, dtype=torch.float32, device="cpu")
        indices = torch.empty(rows, kappa, dtype=torch.int64, device="cpu")
    except RuntimeError:  # torch's word for too little memory, and for sizes beyond 64 bits
        raise InputError(f"{kappa} neighbours of {rows} query pixels are more than there is memory for") from None
    try:
        counts: dict[str, int] = engine.search_cpu(
            query=[describe(level) for level in query],
            gallery=[describe(level) for level in gallery],
            gallery_index=0 if gallery_index is None else gallery_index.data_ptr(),
            gallery_count=gallery[0].shape[0] if gallery_index is None else gallery_index.shape[1],
            kappa=kappa,
            upsample=upsample,
            distances=distances.data_ptr(),
            indices=indices.data_ptr(),
            threads=torch.get_num_threads(),
            prune=prune,
            row_radius=radius[0],
            column_radius=radius[1],
        )
    except ValueError as error:  # what is not finite, and sizes beyond the engine's range
        raise InputError(str(error)) from None
    check_answer(distances, indices, query, gallery, gallery_index)
    return distances, indices, counts
