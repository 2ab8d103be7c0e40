"""`pyramid_knn` with a positional window: a pixel is matched only to gallery pixels near its own place.

Not part of SPADE: an option for images that are aligned. The engines cannot mask places, so this is torch alone: tile
by tile in float64 Gram form to find the candidates, then direct float64 differences to rank them. It compares fewer
pairs than the full search but has no engine behind it: benchmarks/ablation.py measures what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastspade.errors import DtypeError, InputError
from fastspade.search.reference import descriptors
from fastspade.search.validation import (
    UPSAMPLES,
    check_choice,
    check_gallery_index,
    check_kappa,
    check_pair,
    check_pyramid,
)

TILE = 8  # queries are taken in TILE x TILE squares, so that their windows overlap and one product serves all
ROWS = 65536  # candidates ranked at once


def windowed_pyramid_knn(
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor],
    kappa: int,
    radius: tuple[int, int],
    *,
    gallery_index: torch.Tensor | None = None,
    upsample: str = "bilinear",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The contract of `pyramid_knn`, over gallery pixels at most `radius` rows and columns from the query pixel's place.

    radius: (rows, columns) of the finest level, 0 or more. kappa must fit in the window of a corner pixel. Exact, as
    pyramid_knn is: distances (B, H_1, W_1, kappa) float32, ascending, ties to the lower index; indices int64.
    """
    queries, stored = check_pyramid("query", query), check_pyramid("gallery", gallery)
    check_pair(queries, stored)
    check_choice("upsample", upsample, list(UPSAMPLES))
    device, count = queries[0].device, len(queries[0])
    if gallery_index is None:
        gallery_index = torch.arange(len(stored[0]), device=device).expand(count, -1)
    gallery_index = check_gallery_index(gallery_index, count, device)
    if gallery_index.min() < 0 or gallery_index.max() >= len(stored[0]):
        raise InputError(f"gallery_index must name images 0 to {len(stored[0]) - 1}, got {gallery_index.min()} to {gallery_index.max()}")
    height, width = queries[0].shape[2:]
    for value in radius:
        if isinstance(value, bool) or not isinstance(value, int):
            raise DtypeError(f"radius must be two integers, got {radius!r}")
        if value < 0:
            raise InputError(f"radius must be 0 or more, got {radius}")
    corner = min(radius[0] + 1, height) * min(radius[1] + 1, width) * gallery_index.shape[1]
    kappa = check_kappa(kappa, corner, "pixels in a corner's window")
    vectors = descriptors(queries, upsample).view(count, height, width, -1)
    distances = torch.full((count, height, width, kappa), torch.inf, dtype=torch.float64, device=device)
    indices = torch.full((count, height, width, kappa), torch.iinfo(torch.int64).max, device=device)
    for image in gallery_index.unique().tolist():
        users = (gallery_index == image).any(dim=1).nonzero()[:, 0]
        theirs = descriptors([level[image : image + 1] for level in stored], upsample).view(height, width, -1)
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                _search_tile(vectors, theirs, users, top, left, radius, image * height * width, distances, indices)
    return distances.float(), indices


def _search_tile(
    vectors: torch.Tensor,
    theirs: torch.Tensor,
    users: torch.Tensor,
    top: int,
    left: int,
    radius: tuple[int, int],
    base: int,
    distances: torch.Tensor,
    indices: torch.Tensor,
) -> None:
    """Merge one gallery image's pixels into the best of one tile of the query images `users`; in place."""
    height, width, channels = theirs.shape
    kappa = distances.shape[-1]
    rows, columns = slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width))
    near_rows = slice(max(0, top - radius[0]), min(height, rows.stop + radius[0]))
    near_columns = slice(max(0, left - radius[1]), min(width, columns.stop + radius[1]))
    mine = vectors[users, rows, columns].reshape(-1, channels)
    near = theirs[near_rows, near_columns].reshape(-1, channels)

    norms, near_norms = mine.square().sum(1), near.square().sum(1)
    gram = norms[:, None] + near_norms - 2 * (mine @ near.T)
    gram.masked_fill_(~_in_window(rows, columns, near_rows, near_columns, radius, mine.device).repeat(len(users), 1), torch.inf)
    # |gram - distance| is at most about channels * 2^-53 * (both norms); twice that on either side, with room.
    slack = 8 * (channels + 8) * 2.0**-53 * (norms + near_norms.max())
    best, place = distances[users, rows, columns].reshape(-1, kappa), indices[users, rows, columns].reshape(-1, kappa)
    limit = torch.minimum(gram.topk(min(kappa, gram.shape[1]), largest=False).values[:, -1], best[:, -1])
    if gram.shape[1] < kappa:
        limit = best[:, -1]
    row, column = ((gram <= (limit + 2 * slack)[:, None]) & gram.isfinite()).nonzero(as_tuple=True)
    direct = torch.cat([(mine[r] - near[c]).square().sum(1) for r, c in zip(row.split(ROWS), column.split(ROWS))])
    near_width = near_columns.stop - near_columns.start
    flat = base + (column // near_width + near_rows.start) * width + column % near_width + near_columns.start

    every = torch.arange(len(mine), device=row.device).repeat_interleave(kappa)
    row, direct, flat = torch.cat([every, row]), torch.cat([best.flatten(), direct]), torch.cat([place.flatten(), flat])
    for key in (lambda: flat, lambda: direct, lambda: row):  # least significant key first; equals keep their order
        order = key().argsort(stable=True)
        row, direct, flat = row[order], direct[order], flat[order]
    first = torch.searchsorted(row, torch.arange(len(mine), device=row.device))
    kept = (first[:, None] + torch.arange(kappa, device=row.device)).flatten()
    shape = (len(users), rows.stop - rows.start, columns.stop - columns.start, kappa)
    distances[users, rows, columns] = direct[kept].view(shape)
    indices[users, rows, columns] = flat[kept].view(shape)


def _in_window(
    rows: slice, columns: slice, near_rows: slice, near_columns: slice, radius: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """(tile pixels, near pixels) bool: is the one in the other's window?"""

    def close(some: slice, others: slice, reach: int) -> torch.Tensor:
        a = torch.arange(some.start, some.stop, device=device)
        b = torch.arange(others.start, others.stop, device=device)
        return (a[:, None] - b).abs() <= reach

    down, across = close(rows, near_rows, radius[0]), close(columns, near_columns, radius[1])
    both = down[:, None, :, None] & across[None, :, None, :]
    return both.reshape(down.shape[0] * across.shape[0], -1)
