"""`knn` and `pyramid_knn`: the public search functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from fastspade.errors import DeviceError, InputError
from fastspade.search import ops
from fastspade.search.cuda import COUNTERS, has_cuda_engine
from fastspade.search.interchange import library_of, named_levels
from fastspade.search.prepared import PreparedGallery
from fastspade.search.streamed import search_from_host
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

# A torch.Tensor, numpy.ndarray or another library's array: one kind per call, results included.
Array = TypeVar("Array")


@dataclass(frozen=True)
class SearchStatistics:
    """What a search did.

    pairs: query pixel and gallery pixel pairs in the search. fine_pairs: those whose finest level was read, in float32, int8
    or int16; the coarser levels alone, on CUDA with projections of the finest one, ruled the others out. exact_pairs: those
    ranked by exact float64 distances.

    On CUDA (0 on the CPU) uncertain_rows: query pixels whose 16-bit pass could not be certified; precision="exact" searches
    them again. filtered_pairs: their pairs, filtered by norms; bounded_pairs: those left, of which a 16-bit bound was taken.
    What then is left is ranked, and counted, by exact distances.
    """

    pairs: int
    fine_pairs: int
    exact_pairs: int
    uncertain_rows: int = 0
    filtered_pairs: int = 0
    bounded_pairs: int = 0

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
    return SearchStatistics(pairs, **dict(zip(COUNTERS, counters.tolist(), strict=True)))


@overload
def pyramid_knn(
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor] | PreparedGallery,
    kappa: int,
    *,
    gallery_index: torch.Tensor | None = None,
    upsample: str = "bilinear",
    precision: str = "exact",
) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def pyramid_knn(
    query: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray] | PreparedGallery,
    kappa: int,
    *,
    gallery_index: np.ndarray | None = None,
    upsample: str = "bilinear",
    precision: str = "exact",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
@overload
def pyramid_knn(
    query: Sequence[Array],
    gallery: Sequence[Array] | PreparedGallery,
    kappa: int,
    *,
    gallery_index: Array | None = None,
    upsample: str = "bilinear",
    precision: str = "exact",
) -> tuple[Array, Array]: ...
def pyramid_knn(
    query: Sequence[Any],
    gallery: Sequence[Any] | PreparedGallery,
    kappa: int,
    *,
    gallery_index: Any = None,
    upsample: str = "bilinear",
    precision: str = "exact",
) -> tuple[Any, Any]:
    """The kappa nearest gallery pixels of every query pixel, by squared L2 between pyramid descriptors.

    A pixel's descriptor is all levels brought to the finest resolution (as torch.nn.functional.interpolate does, with
    align_corners=False) and concatenated (SPADE, arXiv 2005.02357, section 3.3). The search is exact and never builds
    a descriptor or a distance matrix.

    query: L tensors (B, C_l, H_l, W_l), finest first; float32, float16 or bfloat16, any strides. All arrays of a call may
        instead be numpy arrays, or arrays with DLPack (JAX, CuPy): the results are of that library too.
        They are read in place where their layout allows.
    gallery: L tensors (N, C_l, H_l, W_l) with the same levels, or a `PreparedGallery` of them, which saves a CUDA search
        the work of preparing it each time. With queries on CUDA, a gallery in host memory is streamed to the device, best
        from pinned memory.
    kappa: how many neighbours, from 1 to K * H_1 * W_1.
    gallery_index: (B, K) int64; query image b is searched against gallery images gallery_index[b]. None: all N. An image that
        is named twice has each of its pixels as two neighbours, side by side. On CUDA
        the values are not looked at beforehand: those outside the gallery are skipped. Where the gallery is streamed, they
        may be in host memory too: the host must know which images to bring.
    upsample: "bilinear" or "nearest".
    precision: "exact", or "fast", which lets the CUDA engine skip its recheck of uncertain rows; the CPU engine is
        always exact.

    Returns distances (B, H_1, W_1, kappa) float32, squared L2, ascending, ties to the lower index; and indices
    (B, H_1, W_1, kappa) int64, flat: image * H_1 * W_1 + y * W_1 + x. Ties are distances equal as returned, in float32:
    so the kappa nearest of the results over parts of a gallery are bit-identical to the result over all of it. With
    precision="exact" CPU and CUDA return bit-identical results.

    Raises InputError, DtypeError or DeviceError (fastspade.errors), naming the argument. Features that are not finite, in
    images that are searched, raise InputError naming level and image, as do features so far apart that a distance in the
    answer leaves float32. To find out, a call on CUDA waits for its answer, as torch.linalg.inv does. Only where a CUDA
    graph is being captured it does not: then a pair that is not finite has the distance NaN, which comes before all
    numbers, and a pair beyond float32 infinity.
    """
    library = library_of(*named_levels("query", query), *named_levels("gallery", gallery), ("gallery_index", gallery_index))
    queries = check_pyramid("query", library.levels("query", query))
    prepared, operand = None, "float16"
    if isinstance(gallery, PreparedGallery):
        check_choice("upsample", upsample, [gallery.upsample])
        prepared, operand, stored = gallery.buffer, gallery.operand, check_pyramid("gallery", gallery.levels)
    else:
        stored = check_pyramid("gallery", library.levels("gallery", gallery))
    check_pair(queries, stored)
    check_choice("upsample", upsample, list(UPSAMPLES))
    check_choice("precision", precision, PRECISIONS)
    device = queries[0].device
    images, (height, width) = stored[0].shape[0], queries[0].shape[2:]
    chosen = None
    if gallery_index is not None:
        chosen = library.tensor("gallery_index", gallery_index)
        chosen = check_gallery_index(chosen, queries[0].shape[0], device, streamed=stored[0].device.type == "cpu")
        images = chosen.shape[1]
    kappa = check_kappa(kappa, images * height * width, "pixels")
    distances, indices = _search(queries, stored, prepared, kappa, chosen, upsample, precision, operand)
    shape = (queries[0].shape[0], height, width, kappa)
    return library.array(distances.reshape(shape)), library.array(indices.reshape(shape))


@overload
def knn(
    query: torch.Tensor, gallery: torch.Tensor, kappa: int, *, precision: str = "exact"
) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def knn(
    query: np.ndarray, gallery: np.ndarray, kappa: int, *, precision: str = "exact"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
@overload
def knn(query: Array, gallery: Array, kappa: int, *, precision: str = "exact") -> tuple[Array, Array]: ...
def knn(query: Any, gallery: Any, kappa: int, *, precision: str = "exact") -> tuple[Any, Any]:
    """The kappa nearest rows of `gallery` for every row of `query`, by squared L2.

    query: (Q, D), gallery: (G, D); float32, float16 or bfloat16, any strides; tensors, or both of another library as in
        `pyramid_knn`. kappa: from 1 to G.
    precision: as in `pyramid_knn`.

    Returns distances (Q, kappa) float32, ascending, ties to the lower index; indices (Q, kappa) int64.

    Raises InputError, DtypeError or DeviceError (fastspade.errors), naming the argument; of what is not finite see `pyramid_knn`.
    """
    library = library_of(("query", query), ("gallery", gallery))
    queries = check_tensor("query", library.tensor("query", query), "(Q, D)")
    stored = check_tensor("gallery", library.tensor("gallery", gallery), "(G, D)")
    if queries.shape[1] != stored.shape[1]:
        raise InputError(f"query is {shape_text(queries.shape)} and gallery {shape_text(stored.shape)}; both need the same D")
    check_devices(queries.device, stored.device)
    check_choice("precision", precision, PRECISIONS)
    kappa = check_kappa(kappa, stored.shape[0], "vectors")
    # Rows become the pixels of one tall image with a single level.
    as_image = [matrix.t().unsqueeze(0).unsqueeze(-1) for matrix in (queries, stored)]
    distances, indices = _search([as_image[0]], [as_image[1]], None, kappa, None, "nearest", precision, "float16")
    return library.array(distances), library.array(indices)


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
        distances, indices, counters = search_from_host(query, gallery, kappa, gallery_index, upsample, precision, operand)
    else:
        distances, indices, counters = ops.search(query, gallery, prepared, kappa, gallery_index, upsample, precision, operand)
    if not torch.compiler.is_compiling():
        images = gallery[0].shape[0] if gallery_index is None else gallery_index.shape[1]
        _last = len(distances) * images * gallery[0].shape[2] * gallery[0].shape[3], counters
    return distances, indices
