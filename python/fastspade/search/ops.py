"""The search as torch custom operators, so that torch.compile and torch.export see one node with known shapes.

fastspade::prepare_gallery and fastspade::pyramid_knn take checked arguments; `fastspade.search.api` checks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from fastspade.errors import InputError
from fastspade.search.cpu import search_cpu
from fastspade.search.cuda import COUNTERS, OPERANDS, prepare_gallery_cuda, search_cuda
from fastspade.search.validation import UPSAMPLES

Answer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # distances, indices, counters

_library = torch.library.Library("fastspade", "DEF")
_library.define("prepare_gallery(Tensor[] gallery, str upsample, str operand) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(
    "pyramid_knn(Tensor[] query, Tensor[] gallery, Tensor? prepared, int kappa, Tensor? gallery_index, str upsample, "
    "str precision, str operand) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def is_bfloat16(operand: str) -> bool:
    if operand not in OPERANDS:
        raise InputError(f"operand must be one of {', '.join(map(repr, OPERANDS))}, got {operand!r}")
    return operand == "bfloat16"


def _prepare_cpu(gallery: Sequence[torch.Tensor], upsample: str, operand: str) -> torch.Tensor:
    # The CPU engine reads the caller's tensors as they are.
    return torch.empty(0, dtype=torch.uint8, device="cpu")


def _prepare_cuda(gallery: Sequence[torch.Tensor], upsample: str, operand: str) -> torch.Tensor:
    return prepare_gallery_cuda(list(gallery), UPSAMPLES[upsample], is_bfloat16(operand))


def _prepare_fake(gallery: Sequence[torch.Tensor], upsample: str, operand: str) -> torch.Tensor:
    if gallery[0].device.type == "cpu":
        return torch.empty(0, dtype=torch.uint8)
    return gallery[0].new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)


def _search_cpu(
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor],
    prepared: torch.Tensor | None,
    kappa: int,
    gallery_index: torch.Tensor | None,
    upsample: str,
    precision: str,
    operand: str,
) -> Answer:
    if gallery_index is not None:
        low, high, images = int(gallery_index.min()), int(gallery_index.max()), gallery[0].shape[0]
        if low < 0 or high >= images:
            raise InputError(f"gallery_index must lie in [0, {images}), the gallery's images; got values from {low} to {high}")
    distances, indices, counts = search_cpu(list(query), list(gallery), kappa, gallery_index, UPSAMPLES[upsample])
    return distances, indices, torch.tensor([counts["pairs"], counts["fine_pairs"], counts["exact_pairs"]], device="cpu")


def _search_cuda(
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor],
    prepared: torch.Tensor | None,
    kappa: int,
    gallery_index: torch.Tensor | None,
    upsample: str,
    precision: str,
    operand: str,
) -> Answer:
    return search_cuda(
        list(query),
        list(gallery),
        prepared,
        kappa,
        gallery_index,
        UPSAMPLES[upsample],
        redo=precision == "exact",
        bfloat16=is_bfloat16(operand),
    )


def _search_fake(
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor],
    prepared: torch.Tensor | None,
    kappa: int,
    gallery_index: torch.Tensor | None,
    upsample: str,
    precision: str,
    operand: str,
) -> Answer:
    first = query[0]
    rows = first.shape[0] * first.shape[2] * first.shape[3]
    on_cpu = first.device.type == "cpu"
    return (
        first.new_empty(rows, kappa, dtype=torch.float32),
        first.new_empty(rows, kappa, dtype=torch.int64),
        first.new_empty(3 if on_cpu else len(COUNTERS), dtype=torch.int64),
    )


_library.impl("prepare_gallery", _prepare_cpu, "CPU")
_library.impl("prepare_gallery", _prepare_cuda, "CUDA")
_library.impl("pyramid_knn", _search_cpu, "CPU")
_library.impl("pyramid_knn", _search_cuda, "CUDA")
torch.library.register_fake("fastspade::prepare_gallery", _prepare_fake, lib=_library)
torch.library.register_fake("fastspade::pyramid_knn", _search_fake, lib=_library)

prepare_gallery: Callable[[Sequence[torch.Tensor], str, str], torch.Tensor] = torch.ops.fastspade.prepare_gallery.default
search: Callable[
    [Sequence[torch.Tensor], Sequence[torch.Tensor], torch.Tensor | None, int, torch.Tensor | None, str, str, str], Answer
] = torch.ops.fastspade.pyramid_knn.default
