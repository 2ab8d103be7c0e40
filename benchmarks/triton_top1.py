"""The nearest vector by a fused product and minimum, in Triton: the kernel one would write instead of fastspade's.

The distance matrix stays on chip; each program reads the gallery vectors of one split. Squared distances leave out the query's
norm, as it changes no order, and are as exact as the products: 16-bit or tf32 operands, float32 sums.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl

# Queries, vectors and channels of a tile; warps; pipeline stages. The fastest for the shapes at hand is found at the first call.
TILES = [(128, 128, 64, 8, 3), (128, 256, 64, 8, 3), (128, 128, 32, 4, 4), (64, 256, 64, 8, 3), (64, 128, 64, 4, 4)]


@triton.jit
def top1_kernel(
    query, gallery, norms, distances, places, queries, vectors, split,
    channels: tl.constexpr, tf32: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * M + tl.arange(0, M)
    first = tl.program_id(1) * split
    best = tl.full((M,), float("inf"), tl.float32)
    place = tl.zeros((M,), tl.int32)
    for start in range(first, tl.minimum(first + split, vectors), N):
        columns = start + tl.arange(0, N)
        product = tl.zeros((M, N), tl.float32)
        for k in range(0, channels, K):
            depth = k + tl.arange(0, K)
            a_inside = (rows[:, None] < queries) & (depth[None, :] < channels)
            b_inside = (columns[None, :] < vectors) & (depth[:, None] < channels)
            a = tl.load(query + rows[:, None].to(tl.int64) * channels + depth[None, :], mask=a_inside, other=0.0)
            b = tl.load(gallery + columns[None, :].to(tl.int64) * channels + depth[:, None], mask=b_inside, other=0.0)
            product = tl.dot(a, b, product, input_precision="tf32" if tf32 else "ieee")
        norm = tl.load(norms + columns, mask=columns < vectors, other=float("inf"))
        value, at = tl.min(norm[None, :] - 2 * product, axis=1, return_indices=True)
        place = tl.where(value < best, start + at, place)
        best = tl.minimum(value, best)
    inside = rows < queries
    tl.store(distances + tl.program_id(1) * queries + rows, best, mask=inside)
    tl.store(places + tl.program_id(1) * queries + rows, place, mask=inside)


_tuned = {}


def _kernel() -> object:
    """Tuned, except under the interpreter (TRITON_INTERPRET=1)."""
    if not _tuned:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        tiles = [(16, 16, 16, 4, 1)] if interpreted else TILES
        configs = [
            triton.Config({"M": m, "N": n, "K": k}, num_warps=warps, num_stages=stages) for m, n, k, warps, stages in tiles
        ]
        _tuned["kernel"] = triton.autotune(configs, key=["queries", "vectors", "channels", "tf32", "split"])(top1_kernel)
    return _tuned["kernel"]


def top1_candidates(query: torch.Tensor, gallery: torch.Tensor, norms: torch.Tensor, splits: int) -> torch.Tensor:
    """The nearest of each of `splits` parts of the gallery: (Q, splits) int64. query (Q, D) and gallery (G, D) contiguous,
    float16 or float32 (then products are tf32); norms (G,) float32, squared. A part is at least 256 vectors.
    """
    split = max(256, -(-len(gallery) // splits // 256) * 256)
    splits = -(-len(gallery) // split)
    distances = torch.empty(splits, len(query), dtype=torch.float32, device=query.device)
    places = torch.empty(splits, len(query), dtype=torch.int32, device=query.device)

    def grid(tile: dict[str, int]) -> tuple[int, int]:
        return -(-len(query) // tile["M"]), splits

    sides = query, gallery, norms, distances, places, len(query), len(gallery), split
    _kernel()[grid](*sides, channels=query.shape[1], tf32=query.dtype == torch.float32)
    return places.t().long()
