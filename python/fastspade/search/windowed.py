"""`pyramid_knn` with a positional window: a pixel is matched only to gallery pixels near its own place.

Not part of SPADE: an option for images that are aligned. The engines cannot mask places, so this is torch alone: tile
by tile in float64 Gram form to find the candidates, then direct float64 differences to rank them. It compares fewer
pairs than the full search but has no engine behind it: benchmarks/ablation.py measures what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastspade.errors import DtypeError, InputError
from fastspade.search.levels import Levels, MemoryLevels
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
    gallery: Sequence[torch.Tensor] | Levels,
    kappa: int,
    radius: tuple[int, int],
    *,
    gallery_index: torch.Tensor | None = None,
    upsample: str = "bilinear",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The contract of `pyramid_knn`, over gallery pixels at most `radius` rows and columns from the query pixel's place.

    gallery: levels, or where they are read from, an image at a time. radius: (rows, columns) of the finest level, 0 or more.
    kappa must fit in the window of a corner pixel. Exact, as pyramid_knn is: distances (B, H_1, W_1, kappa) float32,
    ascending, ties to the lower index; indices int64.
    """
    queries = check_pyramid("query", query)
    if isinstance(gallery, Sequence):
        checked = check_pyramid("gallery", gallery)
        check_pair(queries, checked)
        gallery = MemoryLevels(checked)
    check_choice("upsample", upsample, list(UPSAMPLES))
    device, count = queries[0].device, len(queries[0])
    if gallery_index is None:
        gallery_index = torch.arange(len(gallery), device=device).expand(count, -1)
    gallery_index = check_gallery_index(gallery_index, count, device)
    if gallery_index.min() < 0 or gallery_index.max() >= len(gallery):
        raise InputError(f"gallery_index must name images 0 to {len(gallery) - 1}, got {gallery_index.min()} to {gallery_index.max()}")
    height, width = queries[0].shape[2:]
    for value in radius:
        if isinstance(value, bool) or not isinstance(value, int):
            raise DtypeError(f"radius must be two integers, got {radius!r}")
        if value < 0:
            raise InputError(f"radius must be 0 or more, got {radius}")
    corner = min(radius[0] + 1, height) * min(radius[1] + 1, width) * gallery_index.shape[1]
    kappa = check_kappa(kappa, corner, "pixels in a corner's window")
    vectors = descriptors(queries, upsample).view(count, height, width, -1)
    norms = vectors.square().sum(-1)
    distances = torch.full((count, height, width, kappa), torch.inf, dtype=torch.float64, device=device)
    indices = torch.full((count, height, width, kappa), torch.iinfo(torch.int64).max, device=device)
    tiles = [_Tile.at(top, left, (height, width), radius, device) for top in range(0, height, TILE) for left in range(0, width, TILE)]
    for image in gallery_index.unique().tolist():
        users = (gallery_index == image).any(dim=1).nonzero()[:, 0]
        theirs = descriptors(gallery.gather(torch.tensor([image])), upsample).view(height, width, -1)
        their_norms = theirs.square().sum(-1)
        for tile in tiles:
            mine = vectors[users, tile.rows, tile.columns].flatten(0, 2)
            near = theirs[tile.near_rows, tile.near_columns].flatten(0, 1)
            my_norms = norms[users, tile.rows, tile.columns].flatten()
            near_norms = their_norms[tile.near_rows, tile.near_columns].flatten()
            best = distances[users, tile.rows, tile.columns].flatten(0, 2)
            row, column = _candidates(mine, near, my_norms, near_norms, tile.outside, best)
            if len(row) == 0:
                continue
            direct = torch.cat([(mine[r] - near[c]).square().sum(1) for r, c in zip(row.split(ROWS), column.split(ROWS))]).float().double()
            y, x = column // tile.near_width + tile.near_rows.start, column % tile.near_width + tile.near_columns.start
            place = indices[users, tile.rows, tile.columns].flatten(0, 2)
            best, place = _merge(best, place, row, direct, (image * height + y) * width + x)
            shape = (len(users), tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start, kappa)
            distances[users, tile.rows, tile.columns] = best.view(shape)
            indices[users, tile.rows, tile.columns] = place.view(shape)
    return distances.float(), indices


@dataclass(frozen=True)
class _Tile:
    """A square of query pixels and the gallery pixels in any of their windows. outside: (tile pixels, near pixels) bool,
    true where the one is not in the other's window."""

    rows: slice
    columns: slice
    near_rows: slice
    near_columns: slice
    outside: torch.Tensor

    @property
    def near_width(self) -> int:
        width: int = self.near_columns.stop - self.near_columns.start
        return width

    @classmethod
    def at(cls, top: int, left: int, size: tuple[int, int], radius: tuple[int, int], device: torch.device) -> _Tile:
        rows, columns = slice(top, min(top + TILE, size[0])), slice(left, min(left + TILE, size[1]))
        near_rows = slice(max(0, top - radius[0]), min(size[0], rows.stop + radius[0]))
        near_columns = slice(max(0, left - radius[1]), min(size[1], columns.stop + radius[1]))
        return cls(rows, columns, near_rows, near_columns, ~_in_window(rows, columns, near_rows, near_columns, radius, device))


def _candidates(
    mine: torch.Tensor,
    near: torch.Tensor,
    norms: torch.Tensor,
    near_norms: torch.Tensor,
    outside: torch.Tensor,
    best: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs (row, column) that may be among the kappa nearest: all whose Gram distance is not above what is sure to be."""
    kappa = best.shape[1]
    # The distance less the row's own norm, which does not change the order in a row.
    gram = torch.addmm(near_norms, mine, near.T, alpha=-2)
    gram.view(-1, *outside.shape).masked_fill_(outside, torch.inf)
    # |gram - distance| is at most about channels * 2^-53 * (both norms); twice that on either side, with room.
    slack = 8 * (mine.shape[1] + 8) * 2.0**-53 * (norms + near_norms.max())
    # Distances that round to the same float32 are ties, which this much more lets through.
    tie = 1 + 2.0**-22
    limit = best[:, -1] * tie - norms
    if kappa == 1:
        limit = torch.minimum(limit, (gram.amin(dim=1) + norms) * tie - norms)
    elif gram.shape[1] >= kappa:
        limit = torch.minimum(limit, (gram.topk(kappa, largest=False).values[:, -1] + norms) * tie - norms)
    limit = (limit + 2 * slack).clamp(max=torch.finfo(torch.float64).max)  # so that nothing outside the window passes
    row, column = (gram <= limit[:, None]).nonzero(as_tuple=True)
    return row, column


def _merge(
    best: torch.Tensor, place: torch.Tensor, row: torch.Tensor, direct: torch.Tensor, flat: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kappa smallest of each row's best (rows, kappa) and its candidates; ties to the lower index."""
    rows, kappa = best.shape
    every = torch.arange(rows, device=row.device)
    row = torch.cat([every.repeat_interleave(kappa), row])
    direct, flat = torch.cat([best.flatten(), direct]), torch.cat([place.flatten(), flat])
    columns = [flat, direct, row]
    for key in range(3):  # least significant first; equals keep their order
        order = columns[key].argsort(stable=True)
        columns = [column[order] for column in columns]
    flat, direct, row = columns
    kept = (torch.searchsorted(row, every)[:, None] + torch.arange(kappa, device=row.device)).flatten()
    return direct[kept].view(rows, kappa), flat[kept].view(rows, kappa)


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
