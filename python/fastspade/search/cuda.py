"""The CUDA engine: allocates outputs and workspace with torch and passes addresses and the current stream to the kernels.

Nothing here waits for the device but check_answer. `engine` is the compiled module; tests pass one that runs the same kernels
emulated on the host, with CPU tensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

from fastspade.errors import EngineError, InputError
from fastspade.search.cpu import compiled_engine, describe
from fastspade.search.levels import Shape
from fastspade.search.validation import check_answer

if TYPE_CHECKING:
    from fastspade._engine import CudaPlan

P = ParamSpec("P")
T = TypeVar("T")

OPERANDS = ("float16", "bfloat16")
MAX_LEVELS = 16
PATHS = {"auto": 0, "sm80": 1, "sm90a": 2}
# What a search counts, as Counter in csrc/cuda/parameters.hpp; fields of SearchStatistics.
COUNTERS = ("uncertain_rows", "exact_pairs", "filtered_pairs", "bounded_pairs", "fine_pairs")


def has_cuda_engine() -> bool:
    """Whether this build of fastspade contains the CUDA engine."""
    return hasattr(compiled_engine(), "cuda_search")


def _place(device: torch.device) -> tuple[int, int]:
    """The device's number and its current stream's handle."""
    if device.type != "cuda":  # the emulation
        return 0, 0
    index = torch.cuda.current_device() if device.index is None else device.index
    return index, torch.cuda.current_stream(index).cuda_stream


def _captured(device: torch.device) -> bool:
    """Whether work on the device's current stream goes into a CUDA graph, which nothing can wait for."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_current_stream_capturing())


def _path() -> int:
    """Which search kernel FASTSPADE_CUDA_PATH asks for, as the engine numbers them: "sm80", "sm90a" or, by default, "auto"."""
    wanted = os.environ.get("FASTSPADE_CUDA_PATH") or "auto"
    if wanted not in PATHS:
        raise InputError(f"the environment variable FASTSPADE_CUDA_PATH must be one of {', '.join(PATHS)}, got {wanted!r}")
    return PATHS[wanted]


def _shapes(levels: list[torch.Tensor]) -> list[Shape]:
    return [(level.shape[1], level.shape[2], level.shape[3]) for level in levels]


def _translated(call: Callable[P, T], engine: ModuleType, *arguments: P.args, **named: P.kwargs) -> T:
    """Calls the engine with its device current; its errors become torch's and fastspade's."""
    try:
        # torch's guard, because it goes back to the device before without making a context there that nobody asked for.
        with torch.cuda.device(named["device"]) if torch.cuda.is_initialized() else nullcontext():
            return call(*arguments, **named)
    except ValueError as error:
        raise InputError(str(error)) from None
    except RuntimeError as error:
        if isinstance(error, getattr(engine, "CudaOutOfMemory", ())):
            raise torch.cuda.OutOfMemoryError(str(error)) from None
        raise EngineError(str(error)) from None


def gallery_bytes_cuda(
    shapes: Sequence[Shape],
    images: int,
    device: torch.device,
    upsample: int,
    bfloat16: bool = False,
    engine: ModuleType | None = None,
) -> int:
    """Bytes of what prepare_gallery_cuda makes from `images` pyramids of `shapes` on `device`."""
    engine = compiled_engine() if engine is None else engine
    return _gallery_layout(shapes, images, device, upsample, bfloat16, engine)[0]


def _gallery_layout(
    shapes: Sequence[Shape], images: int, device: torch.device, upsample: int, bfloat16: bool, engine: ModuleType
) -> tuple[int, int]:
    """Bytes, and where in them a search reads which pixels are equal."""
    layout: tuple[int, int] = _translated(
        engine.cuda_gallery_layout,
        engine,
        device=_place(device)[0],
        gallery=list(shapes),
        images=images,
        upsample=upsample,
        bfloat16=bfloat16,
    )
    return layout


def prepare_gallery_cuda(
    gallery: list[torch.Tensor], upsample: int, bfloat16: bool, engine: ModuleType | None = None
) -> torch.Tensor:
    """The gallery as the kernels read it, uint8 of one dimension: 16-bit centred features at native resolution, with the
    norms and rounding bounds of every pixel, and which pixels are equal. It serves any number of searches, and stays valid until
    `gallery` changes.
    """
    engine = compiled_engine() if engine is None else engine
    if len(gallery) > MAX_LEVELS:
        raise InputError(f"gallery has {len(gallery)} levels; the CUDA engine takes at most {MAX_LEVELS}")
    device, stream = _place(gallery[0].device)
    size, equals = _gallery_layout(_shapes(gallery), gallery[0].shape[0], gallery[0].device, upsample, bfloat16, engine)
    prepared = torch.empty(size, dtype=torch.uint8, device=gallery[0].device)
    common = dict(
        device=device, stream=stream, gallery=[describe(level) for level in gallery], upsample=upsample, bfloat16=bfloat16
    )
    _translated(engine.cuda_prepare_gallery, engine, **common, prepared=prepared.data_ptr())

    images, pixels = gallery[0].shape[0], gallery[0].shape[2] * gallery[0].shape[3]
    hashes = prepared[equals : equals + 8 * images * pixels].view(torch.int64)
    table = hashes.view(torch.int32).view(-1, 2)
    if len(hashes) >= 1 << 31:  # more pixels than the table numbers: none is known to equal another
        table[:, 0], table[:, 1] = 0, -1
        return prepared
    ordered, order = hashes.sort(stable=True)
    same = torch.empty(len(order), dtype=torch.bool, device=order.device)
    _translated(
        engine.cuda_compare_equals, engine, **common, hashes=ordered.data_ptr(), order=order.data_ptr(), same=same.data_ptr()
    )
    table[order] = _equals(order, same, pixels)
    return prepared


def _equals(order: torch.Tensor, same: torch.Tensor, pixels: int) -> torch.Tensor:
    """Where runs of equal pixels stand together, ascending: (pixels in all, 2) int32, how many of a run come before each pixel
    in its image, and the last of the run before that image, or -1. same: whether a pixel equals the one before it in `order`."""
    image = order // pixels
    position = torch.arange(len(order), device=order.device)
    goes_on = same.clone()
    goes_on[1:] &= image[1:] == image[:-1]
    first = torch.where(goes_on, 0, position).cummax(0).values
    previous = torch.where(same[first], order[first - 1], -1)  # where first is 0 nothing is the same
    return torch.stack([position - first, previous], dim=1).to(torch.int32)


def plan_cuda(
    query: list[torch.Tensor],
    gallery: list[torch.Tensor],
    kappa: int,
    slots: int,
    upsample: int,
    bfloat16: bool = False,
    chosen: bool = False,
    engine: ModuleType | None = None,
) -> CudaPlan:
    """How the search is laid out: the kernel ("path"), workspace bytes, tile and split counts. Made once for calls of the same
    shapes. chosen: whether a gallery_index names gallery images for every query image."""
    engine = compiled_engine() if engine is None else engine
    device, _ = _place(query[0].device)
    plan: CudaPlan = _translated(
        engine.cuda_search_plan,
        engine,
        device=device,
        gallery=_shapes(gallery),
        images=gallery[0].shape[0],
        upsample=upsample,
        bfloat16=bfloat16,
        query=_shapes(query),
        query_images=query[0].shape[0],
        slots=slots,
        kappa=kappa,
        chosen=chosen,
        path=_path(),
    )
    return plan


def search_cuda(
    query: list[torch.Tensor],
    gallery: list[torch.Tensor],
    prepared: torch.Tensor | None,
    kappa: int,
    gallery_index: torch.Tensor | None,
    upsample: int,
    redo: bool,
    bfloat16: bool = False,
    engine: ModuleType | None = None,
    check: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances (B * P, kappa) float32, flat indices (B * P, kappa) int64, and int64 COUNTERS.

    gallery_index entries outside the gallery are skipped; where fewer than kappa pixels remain, the rest of a row has
    distance infinity and index -1. redo=False leaves failed rows as the 16-bit pass found them. check: wait for the answer and
    raise as check_answer does, unless a CUDA graph is being captured; without it pairs that are not finite have the distance NaN,
    and come first, and pairs beyond float32 infinity.
    """
    engine = compiled_engine() if engine is None else engine
    if prepared is None:
        prepared = prepare_gallery_cuda(gallery, upsample, bfloat16, engine)
    device, stream = _place(query[0].device)
    images = gallery[0].shape[0]
    slots = images if gallery_index is None else gallery_index.shape[1]
    if gallery_index is not None:
        # Ascending images make the kernels' order of pixels the order of flat indices, by which ties are decided.
        gallery_index = gallery_index.sort(dim=1).values.contiguous()
    plan = plan_cuda(query, gallery, kappa, slots, upsample, bfloat16, gallery_index is not None, engine)
    where = query[0].device
    rows = query[0].shape[0] * query[0].shape[2] * query[0].shape[3]
    distances = torch.empty(rows, kappa, dtype=torch.float32, device=where)
    indices = torch.empty(rows, kappa, dtype=torch.int64, device=where)
    counters = torch.zeros(len(COUNTERS), dtype=torch.int64, device=where)
    workspace = torch.empty(plan["workspace_bytes"], dtype=torch.uint8, device=where)
    _translated(
        engine.cuda_search,
        engine,
        device=device,
        plan=plan,
        stream=stream,
        query=[describe(level) for level in query],
        gallery=[describe(level) for level in gallery],
        prepared=prepared.data_ptr(),
        gallery_index=0 if gallery_index is None else gallery_index.data_ptr(),
        redo=redo,
        distances=distances.data_ptr(),
        indices=indices.data_ptr(),
        counters=counters.data_ptr(),
        workspace=workspace.data_ptr(),
    )
    if check and not _captured(where):
        check_answer(distances, indices, query, gallery, gallery_index)
    return distances, indices, counters
