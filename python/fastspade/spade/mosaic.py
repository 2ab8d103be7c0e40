"""Tiles' maps and correspondences put together to those of the picture they were cut from."""

from __future__ import annotations

import torch

from fastspade.images.views import Tile
from fastspade.spade.matching import Matches


class Mosaic:
    """One picture's, of tiles that come in any order.

    Where tiles overlap, the map is their mean, weighted so that a tile's share falls to nothing towards its edge: no seams. A
    cell's correspondence is that of the tile in which it lies farthest from the edge. The picture's score is the highest of its
    tiles', and the neighbours are those of that tile.
    """

    def __init__(self, size: tuple[int, int], tile: tuple[int, int], grid: tuple[int, int]) -> None:
        """size: of the picture, as the tiles were cut from it; tile, grid: of a tile's map, and of its cells."""
        self._step = tile[0] / grid[0], tile[1] / grid[1]
        cells = [max(cell, round(side / step)) for side, step, cell in zip(size, self._step, grid, strict=True)]
        self._sum, self._weight = torch.zeros(size), torch.zeros(size)
        self._ramp = _pyramid(tile)
        self.nearest = torch.zeros(cells, dtype=torch.int64)
        self._best = torch.full(cells, -1.0)
        self._inside = _pyramid(grid)
        self.score = -float("inf")
        self.neighbors = self.distances = torch.empty(0)

    def add(self, found: Matches, tiles: list[Tile]) -> None:
        for i, tile in enumerate(tiles):
            smoothed, nearest = found.smoothed[i], found.nearest[i]
            place = (slice(tile.top, tile.top + smoothed.shape[0]), slice(tile.left, tile.left + smoothed.shape[1]))
            self._sum[place] += smoothed * self._ramp
            self._weight[place] += self._ramp
            top, left = (
                min(round(start / step), most - cell)
                for start, step, most, cell in zip(
                    (tile.top, tile.left), self._step, self.nearest.shape, nearest.shape, strict=True
                )
            )
            cells = (slice(top, top + nearest.shape[0]), slice(left, left + nearest.shape[1]))
            better = self._inside > self._best[cells]
            self.nearest[cells][better] = nearest[better]
            self._best[cells][better] = self._inside[better]
            if float(found.scores[i]) > self.score:
                self.score = float(found.scores[i])
                self.neighbors, self.distances = found.neighbors[i], found.distances[i]

    @property
    def smoothed(self) -> torch.Tensor:
        """0 where no tile lies: outside the region of interest."""
        return self._sum / self._weight.clamp(min=torch.finfo(torch.float32).tiny)


def _pyramid(size: tuple[int, int]) -> torch.Tensor:
    """(H, W): how far every place is from the nearest edge, as a share; the product of both axes'."""
    rows, columns = (torch.minimum(torch.arange(side) + 0.5, side - torch.arange(side) - 0.5) / side for side in size)
    return rows[:, None] * columns
