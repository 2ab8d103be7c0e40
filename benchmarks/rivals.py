"""The searches one would use instead of fastspade's, on flat vectors, each followed by an exact re-rank of its candidates.

Interpolating and concatenating the descriptors is done for them beforehand and not counted.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable
from functools import cache

import torch
from timing import Contenders

TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ON_CHIP = 1 << 28  # distances held at a time, 1 GiB of float32


def margin(kappa: int, vectors: int) -> int:
    """How many candidates a search in rounded numbers hands to the re-rank; as many as fastspade keeps."""
    return min(kappa + max(8, kappa // 2), vectors)


def rerank(query: torch.Tensor, gallery: torch.Tensor, candidates: torch.Tensor, kappa: int) -> torch.Tensor:
    """The kappa nearest of each row's candidates by float64 distances, ties to the lower index. query (Q, D), gallery (G, D) on
    either device, candidates (Q, C) -> (Q, kappa) int64."""
    candidates = candidates.to(query.device).sort(1).values
    rows = max(1, (1 << 26) // (candidates.shape[1] * query.shape[1]))  # 512 MiB of differences at a time
    found = []
    for vectors, places in zip(query.split(rows), candidates.split(rows), strict=True):
        chosen = gallery[places.to(gallery.device)].to(query.device)
        squared = (chosen.double() - vectors[:, None].double()).square().sum(-1)
        found.append(places.gather(1, squared.float().sort(dim=1, stable=True).indices[:, :kappa]))
    return torch.cat(found)


def rivals(query: torch.Tensor, gallery: torch.Tensor, kappa: int, compiled: bool) -> Contenders:
    """Searches of (Q, D) in (G, D), float32, each returning (Q, kappa) indices. A gallery in host memory, best pinned, is
    brought to the query's device in parts. compiled: torch.compile too, which takes a minute. Those that are not installed
    are named."""
    raw = dense(query, gallery, kappa)
    if compiled:
        raw |= inductor(query, gallery, kappa)
    raw |= triton_top1(query, gallery) if kappa == 1 else {}
    raw |= libraries(query, gallery, margin(kappa, len(gallery)))

    def reranked(search: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        return lambda: rerank(query, gallery, search(), kappa)

    return {name: reranked(search) for name, search in raw.items()}


@cache
def _tell_missing(library: str) -> None:
    print(f"{library} is not installed: left out")


def _squared_norms(gallery: torch.Tensor, device: torch.device) -> torch.Tensor:
    return gallery.square().sum(1).to(device)


def _best(distances: torch.Tensor, keep: int, reduction: str) -> tuple[torch.Tensor, torch.Tensor]:
    if reduction == "min":
        return distances.min(1, keepdim=True)
    return distances.topk(min(keep, distances.shape[1]), largest=False, sorted=False)


@cache
def _sums_stay_wide(dtype: torch.dtype, device: str) -> bool:
    """Whether this torch gives the float32 sums of 16-bit products as they are; else it rounds them."""
    if device != "cuda" or dtype == torch.float32:
        return False
    a = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.addmm(torch.ones(16, device=device), a, a, alpha=-2, out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        print(f"addmm gives {dtype} sums rounded to {dtype} in this torch")
        return False
    return True


def _product(norms: torch.Tensor, query: torch.Tensor, gallery: torch.Tensor, wide: bool) -> torch.Tensor:
    """Squared distances less the query's norms."""
    if wide:
        return torch.addmm(norms, query, gallery.t(), alpha=-2, out_dtype=torch.float32)
    return torch.addmm(norms.to(query.dtype), query, gallery.t(), alpha=-2)


def dense(query: torch.Tensor, gallery: torch.Tensor, kappa: int) -> Contenders:
    """One matrix product and one reduction; and torch.cdist."""
    keep, device = margin(kappa, len(gallery)), query.device
    norms = _squared_norms(gallery, device)
    chunk = max(4096, ON_CHIP // len(query))

    def in_chunks(distances: Callable[[torch.Tensor, slice], torch.Tensor], stored: torch.Tensor, reduction: str) -> torch.Tensor:
        values, places = [], []
        for start in range(0, len(stored), chunk):
            part = slice(start, min(start + chunk, len(stored)))
            value, place = _best(distances(stored[part].to(device, non_blocking=True), part), keep, reduction)
            values.append(value)
            places.append(place + start)
        if len(places) == 1:
            return places[0]
        merged = torch.cat(places, 1)
        return merged if reduction == "min" else merged.gather(1, torch.cat(values, 1).topk(keep, largest=False).indices)

    @cache
    def rounded(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        stored = gallery.to(dtype)
        return query.to(dtype), stored.pin_memory() if device.type == "cuda" and not stored.is_cuda else stored

    def addmm(kind: str, reduction: str) -> Callable[[], torch.Tensor]:
        asked, stored = rounded(TYPES[kind])
        wide = _sums_stay_wide(asked.dtype, device.type)

        def call() -> torch.Tensor:
            before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
            try:
                return in_chunks(lambda part, where: _product(norms[where], asked, part, wide), stored, reduction)
            finally:
                torch.backends.cuda.matmul.allow_tf32 = before

        return call

    found: Contenders = {"torch.cdist + topk": lambda: in_chunks(lambda part, _: torch.cdist(query, part), gallery, "topk")}
    for kind in TYPES:
        if kappa == 1:
            found[f"addmm {kind} + min"] = addmm(kind, "min")
        found[f"addmm {kind} + topk"] = addmm(kind, "topk")
    return found


def inductor(query: torch.Tensor, gallery: torch.Tensor, kappa: int) -> Contenders:
    """The fp16 product and its reduction, compiled together; on the CPU, where only its path is tried, not compiled."""
    if gallery.device != query.device or len(query) * len(gallery) > 4 * ON_CHIP:
        return {}
    asked, stored, norms = query.half(), gallery.half(), _squared_norms(gallery, query.device)
    keep, reduction = margin(kappa, len(gallery)), "min" if kappa == 1 else "topk"

    def search(norms: torch.Tensor, asked: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        return _best(_product(norms, asked, stored, wide), keep, reduction)[1]

    options = {"mode": "max-autotune"} if query.is_cuda else {"backend": "eager"}
    wide = _sums_stay_wide(asked.dtype, query.device.type)
    fused = torch.compile(search, dynamic=False, **options)
    return {f"torch.compile(max-autotune) fp16 + {reduction}": lambda: fused(norms, asked, stored).clone()}


def triton_top1(query: torch.Tensor, gallery: torch.Tensor) -> Contenders:
    """triton_top1.py; on the CPU only under Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        _tell_missing("Triton")
        return {}
    if gallery.device != query.device or not (query.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        return {}
    from triton_top1 import top1_candidates

    norms = _squared_norms(gallery, query.device)
    found: Contenders = {}
    for kind in ("fp16", "tf32"):
        asked, stored = query.to(TYPES[kind]).contiguous(), gallery.to(TYPES[kind]).contiguous()
        found[f"Triton fused top-1 {kind}"] = lambda asked=asked, stored=stored: top1_candidates(asked, stored, norms, 16)
    return found


def libraries(query: torch.Tensor, gallery: torch.Tensor, keep: int) -> Contenders:
    """Those made for it."""
    found: Contenders = {}
    if gallery.device != query.device:
        return found
    try:
        import faiss
        import faiss.contrib.torch_utils

        resources = faiss.StandardGpuResources()
        found["faiss.knn_gpu"] = lambda: faiss.knn_gpu(resources, query, gallery, keep)[1]
        if "use_cuvs" in inspect.signature(faiss.knn_gpu).parameters:
            found["faiss.knn_gpu, cuVS"] = lambda: faiss.knn_gpu(resources, query, gallery, keep, use_cuvs=True)[1]
    except (ImportError, AttributeError):
        _tell_missing("FAISS with GPU support")
    try:
        from cuvs.neighbors import brute_force

        index = brute_force.build(gallery, metric="sqeuclidean")
        found["cuvs.brute_force"] = lambda: torch.as_tensor(brute_force.search(index, query, keep)[1], device=query.device)
    except ImportError:
        _tell_missing("cuVS")
    try:
        from pykeops.torch import LazyTensor

        found["KeOps argKmin"] = lambda: (
            ((LazyTensor(query[:, None]) - LazyTensor(gallery[None])) ** 2).sum(-1).argKmin(keep, dim=1)
        )
    except ImportError:
        _tell_missing("KeOps")
    return found
