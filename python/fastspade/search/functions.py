"""`knn` and `pyramid_knn`: the public search functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastspade.search.cpu import search_cpu
from fastspade.errors import DeviceError
from fastspade.search.validation import (
    PRECISIONS,
    UPSAMPLES,
    check_choice,
    check_gallery_index,
    check_kappa,
    check_pair,
    check_pyramid,
    check_tensor,
    shape_text,
)
from fastspade.errors import InputError


@dataclass(frozen=True)
class SearchStatistics:
    """What the last search on this thread did.

    pairs: query pixel and gallery pixel pairs in the search. fine_pairs: those whose finest level was looked at; the
    coarser levels alone ruled the others out. exact_pairs: those ranked by exact float64 distances.
    """

    pairs: int
    fine_pairs: int
    exact_pairs: int

    @property
    def skipped(self) -> float:
        """Share of pairs that never needed their finest level."""
        return 1.0 - self.fine_pairs / self.pairs


_last: SearchStatistics | None = None


def last_statistics() -> SearchStatistics | None:
    """Statistics of the most recent CPU search, or None before the first."""
    return _last


def pyramid_knn(
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor],
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
    gallery: L tensors (N, C_l, H_l, W_l) with the same levels.
    kappa: how many neighbours, from 1 to K * H_1 * W_1.
    gallery_index: (B, K) int64; query image b is searched against gallery images gallery_index[b]. None: all N.
    upsample: "bilinear" or "nearest".
    precision: "exact", or "fast", which lets the CUDA engine skip its recheck of uncertain rows; the CPU engine is
        always exact.

    Returns distances (B, H_1, W_1, kappa) float32, squared L2, ascending, ties to the lower index; and indices
    (B, H_1, W_1, kappa) int64, flat: image * H_1 * W_1 + y * W_1 + x.

    Raises InputError, DtypeError or DeviceError (fastspade.errors), naming the argument.
    """
    queries, stored = check_pyramid("query", query), check_pyramid("gallery", gallery)
    check_pair(queries, stored)
    check_choice("upsample", upsample, list(UPSAMPLES))
    check_choice("precision", precision, PRECISIONS)
    device = queries[0].device
    images, (height, width) = stored[0].shape[0], queries[0].shape[2:]
    if gallery_index is not None:
        gallery_index = check_gallery_index(gallery_index, queries[0].shape[0], images, device)
        images = gallery_index.shape[1]
    kappa = check_kappa(kappa, images * height * width, "pixels")
    distances, indices = _search(queries, stored, kappa, gallery_index, upsample, precision)
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
    if query.device != gallery.device:
        raise DeviceError(f"query is on {query.device} and gallery on {gallery.device}; move one to the other")
    check_choice("precision", precision, PRECISIONS)
    kappa = check_kappa(kappa, gallery.shape[0], "vectors")
    # Rows become the pixels of one tall image with a single level.
    as_image = [matrix.t().unsqueeze(0).unsqueeze(-1) for matrix in (query, gallery)]
    return _search([as_image[0]], [as_image[1]], kappa, None, "nearest", precision)


def _search(
    query: list[torch.Tensor],
    gallery: list[torch.Tensor],
    kappa: int,
    gallery_index: torch.Tensor | None,
    upsample: str,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hands checked arguments to the engine of their device; results are (B * P or Q, kappa)."""
    global _last
    device = query[0].device
    if device.type != "cpu":
        raise DeviceError(
            f"query and gallery are on {device}, but this build of fastspade has no engine for it; "
            "move them to the CPU, or build with CUDA (see README)"
        )
    distances, indices, counts = search_cpu(query, gallery, kappa, gallery_index, UPSAMPLES[upsample])
    _last = SearchStatistics(**counts)
    return distances, indices
