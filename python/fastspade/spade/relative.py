"""The image score "relative": how far an image's map rises above what the normal images' own maps reach at the same place.

Normal images do not look normal everywhere alike: borders, edges and parts that move differ from image to image more than a
plain background does. The ceiling says how much: every normal image is matched against all the others (leave one out), its
map is averaged over the feature grid's cells, and the ceiling of a cell is three standard deviations above the mean. A map is
then divided by the ceiling, two thirds the cell's own and one third the mean of all cells, which keeps cells that hardly ever
change from dominating. The score is the mean of the highest 1 % of the quotients over the cube root of their median: an image
that is a little unusual all over, in its light or for want of near-duplicates among the normal images, is none with a defect. It
is between 1 and 2 where a map is as high as that of the most unusual normal images.

Not part of SPADE.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fastspade.errors import ModelFileError
from fastspade.maps.process import gaussian_matrix

DEVIATIONS = 3.0  # that the ceiling is above the mean
SMOOTHING = 0.5  # of the ceiling, in cells
COMMON = 0.5  # weight of the mean of all cells, beside 1 of a cell's own
HIGHEST = 0.01  # share of a map's cells that make the score
USUAL = 1 / 3  # power of the cells' median that it is divided by


@dataclass(frozen=True)
class Ceiling:
    """values: (h, w) float32, what normal maps reach at each cell of the feature grid. images, next_id: of the bank that it
    is of, as of `Threshold`."""

    values: torch.Tensor
    images: int
    next_id: int

    def as_dict(self) -> dict[str, Any]:
        packed = base64.b64encode(zlib.compress(self.values.contiguous().numpy().astype("<f4").tobytes())).decode()
        return {"shape": list(self.values.shape), "float32": packed, "images": self.images, "next_id": self.next_id}

    @classmethod
    def from_dict(cls, values: Any) -> Ceiling:
        """The ceiling of a model file. Raises ModelFileError where it is not usable."""
        try:
            height, width = (int(side) for side in values["shape"])
            size = 4 * height * width
            raw = zlib.decompressobj().decompress(base64.b64decode(values["float32"], validate=True), size + 1)
            if not isinstance(values, Mapping) or min(height, width) < 1 or len(raw) != size:
                raise ValueError(f"{len(raw)} bytes for {height} x {width} cells")
            cells = torch.from_numpy(np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(height, width))
            if not bool((cells.isfinite() & (cells >= 0)).all()):
                raise ValueError("its cells must be finite and not negative")
            return cls(cells, int(values["images"]), int(values["next_id"]))
        except Exception as error:  # whatever a hostile file provokes
            raise ModelFileError(f"path: the model's ceiling is not usable: {type(error).__name__}: {error}") from error


def by_cell(maps: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Maps (B, H, W) -> their means over the cells of a grid, (B, h, w)."""
    return F.adaptive_avg_pool2d(maps[:, None], grid)[:, 0]


def relative_scores(cells: torch.Tensor, ceiling: torch.Tensor) -> torch.Tensor:
    """(B,) float64. cells: maps by cell, (B, h, w); ceiling: (h, w), or one per image (B, h, w)."""
    limit = (ceiling + COMMON * ceiling.mean(dim=(-2, -1), keepdim=True)) / (1 + COMMON)
    risen = (cells / limit.clamp(min=torch.finfo(torch.float32).tiny)).flatten(1)
    counted = risen > 0  # not cells outside a region of interest
    usual = torch.where(counted, risen, math.nan).nanmedian(dim=1).values
    highest = risen.topk(max(1, round(HIGHEST * risen.shape[1]))).values.double()
    count = (HIGHEST * counted.sum(dim=1, keepdim=True)).round().clamp(min=1)
    highest = highest * (torch.arange(highest.shape[1], device=cells.device) < count)
    return highest.sum(dim=1) / count[:, 0] / usual.nan_to_num(1.0).double() ** USUAL


def ceiling_of(cells: torch.Tensor) -> torch.Tensor:
    """The ceiling (h, w) of N normal images' maps by cell (N, h, w)."""
    return _above(len(cells), *_sums(cells))


def left_out_relative_scores(cells: torch.Tensor) -> torch.Tensor:
    """(N,) float64: the relative score of every normal image under the ceiling of all the others; cells (N, h, w), N >= 2."""
    total, squares = _sums(cells)
    return torch.cat([
        relative_scores(own[None], _above(len(cells) - 1, total - own.double(), squares - own.double().square())) for own in cells
    ])  # fmt: skip


def _sums(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return cells.double().sum(dim=0), cells.double().square().sum(dim=0)


def _above(images: int, total: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """DEVIATIONS above the mean, (h, w) float32, from the sums of so many images' cells and of their squares."""
    mean = total / images
    return _smoothed((mean + DEVIATIONS * (squares / images - mean.square()).clamp(min=0).sqrt()).float())


def _smoothed(cells: torch.Tensor) -> torch.Tensor:
    rows, columns = (gaussian_matrix(side, SMOOTHING).to(cells.device) for side in cells.shape[-2:])
    return rows @ (cells @ columns.T)
