"""`knn` and `pyramid_knn`: the public search functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastspade.errors import DeviceError, InputError
from fastspade.search import ops
from fastspade.search.cuda import has_cuda_engine
from fastspade.search.prepared import PreparedGallery
from fastspade.search.streaming import search_streamed
from fastspade.search.validation import (
    PRECISIONS,
    UPSAMPLES,
    check_choice,
    check_devices,
    check_gallery_index,
    check_kappa,
    check_pair,
    check_pyramid,
    check_tensor,
    shape_text,
)


@dataclass(frozen=True)
class SearchStatistics:
    """What a search did.

    pairs: query pixel and gallery pixel pairs in the search. fine_pairs: those whose finest level was looked at; the
    coarser levels alone ruled the others out. exact_pairs: those ranked by exact float64 distances. uncertain_rows: query
    pixels whose 16-bit pass could not be certified; precision="exact" searched them again (CUDA; 0 on the CPU).
    """

    pairs: int
    fine_pairs: int
    exact_pairs: int
    uncertain_rows: int = 0

    @property
    def skipped(self) -> float:
        """Share of pairs that never needed their finest level."""
        return 1.0 - self.fine_pairs / self.pairs


# Pairs of the last search and the engine's counters, still on its device.
_last: tuple[int, torch.Tensor] | None = None


def last_statistics() -> SearchStatistics | None:
    """Statistics of the most recent search, or None before the first. After a CUDA search this waits for it to end."""
    if _last is None:
        return None
    pairs, counters = _last
    if len(counters) == 3:
        return SearchStatistics(*counters.tolist())
    uncertain, exact = counters.tolist()
    return SearchStatistics(pairs, pairs, exact, uncertain)


def pyramid_knn(
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor] | PreparedGallery,
    kappa: int,
    *,
    gallery_index: torch.Tensor | None = None,
    upsample: str = "bilinear",
    precision: str = "exact",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kappa nearest gallery pixels of every query pixel, by squared L2 between pyramid descriptors.

    A pixel's descriptor is all levels brought to the finest resolution (as torch.nn.functional.interpolate does, with
    align_corners=False) and concatenated (SPADE, arXiv 2005.02357, section 3.3). The search is exact and never builds
    a descriptor or a distance matrix.

    query: L tensors (B, C_l, H_l, W_l), finest first; float32, float16 or bfloat16, any strides.
    gallery: L tensors (N, C_l, H_l, W_l) with the same levels, or a `PreparedGallery` of them, which saves a CUDA search
        the work of preparing it each time. With queries on CUDA, a gallery in host memory is streamed to the device.
    kappa: how many neighbours, from 1 to K * H_1 * W_1.
    gallery_index: (B, K) int64; query image b is searched against gallery images gallery_index[b]. None: all N. On CUDA
        the values are not looked at beforehand: those outside the gallery are skipped.
    upsample: "bilinear" or "nearest".
    precision: "exact", or "fast", which lets the CUDA engine skip its recheck of uncertain rows; the CPU engine is
        always exact.

    Returns distances (B, H_1, W_1, kappa) float32, squared L2, ascending, ties to the lower index; and indices
    (B, H_1, W_1, kappa) int64, flat: image * H_1 * W_1 + y * W_1 + x. Ties are distances equal as returned, in float32:
    so the kappa nearest of the answers over parts of a gallery are the answer over all of it, bit for bit.

    Raises InputError, DtypeError or DeviceError (fastspade.errors), naming the argument.
    """
    queries = check_pyramid("query", query)
    prepared, operand = None, "float16"
    if isinstance(gallery, PreparedGallery):
        check_choice("upsample", upsample, [gallery.upsample])
        prepared, operand, gallery = gallery.buffer, gallery.operand, gallery.levels
    stored = check_pyramid("gallery", gallery)
    check_pair(queries, stored)
    check_choice("upsample", upsample, list(UPSAMPLES))
    check_choice("precision", precision, PRECISIONS)
    device = queries[0].device
    images, (height, width) = stored[0].shape[0], queries[0].shape[2:]
    if gallery_index is not None:
        gallery_index = check_gallery_index(gallery_index, queries[0].shape[0], device)
        images = gallery_index.shape[1]
    kappa = check_kappa(kappa, images * height * width, "pixels")
    distances, indices = _search(queries, stored, prepared, kappa, gallery_index, upsample, precision, operand)
    shape = (queries[0].shape[0], height, width, kappa)
    return distances.reshape(shape), indices.reshape(shape)


def knn(
    query: torch.Tensor, gallery: torch.Tensor, kappa: int, *, precision: str = "exact"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kappa nearest rows of `gallery` for every row of `query`, by squared L2.

    query: (Q, D), gallery: (G, D); float32, float16 or bfloat16, any strides. kappa: from 1 to G.
    precision: as in `pyramid_knn`.

    Returns distances (Q, kappa) float32, ascending, ties to the lower index; indices (Q, kappa) int64.

    Raises InputError, DtypeError or DeviceError (fastspade.errors), naming the argument.
    """
    query, gallery = check_tensor("query", query, "(Q, D)"), check_tensor("gallery", gallery, "(G, D)")
    if query.shape[1] != gallery.shape[1]:
        raise InputError(
            f"query is {shape_text(query.shape)} and gallery {shape_text(gallery.shape)}; both need the same D"
        )
    check_devices(query.device, gallery.device)
    check_choice("precision", precision, PRECISIONS)
    kappa = check_kappa(kappa, gallery.shape[0], "vectors")
    # Rows become the pixels of one tall image with a single level.
    as_image = [matrix.t().unsqueeze(0).unsqueeze(-1) for matrix in (query, gallery)]
    return _search([as_image[0]], [as_image[1]], None, kappa, None, "nearest", precision, "float16")


def _search(
    query: list[torch.Tensor],
    gallery: list[torch.Tensor],
    prepared: torch.Tensor | None,
    kappa: int,
    gallery_index: torch.Tensor | None,
    upsample: str,
    precision: str,
    operand: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hands checked arguments to the engine of their device; results are (B * P or Q, kappa)."""
    global _last
    device = query[0].device
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not has_cuda_engine()):
        raise DeviceError(
            f"query and gallery are on {device}, but this build of fastspade has no engine for it; "
            "move them to the CPU, or build with CUDA (see README)"
        )
    if device.type == "cuda" and gallery[0].device.type == "cpu":
        distances, indices, counters = search_streamed(
            gallery,
            kappa,
            gallery_index,
            device,
            lambda levels, index, reach: ops.search(query, levels, None, reach, index, upsample, precision, operand),
        )
    else:
        distances, indices, counters = ops.search(
            query, gallery, prepared, kappa, gallery_index, upsample, precision, operand
        )
    if not torch.compiler.is_compiling():
        images = gallery[0].shape[0] if gallery_index is None else gallery_index.shape[1]
        _last = len(distances) * images * gallery[0].shape[2] * gallery[0].shape[3], counters
    return distances, indices
