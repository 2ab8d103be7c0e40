"""What of a picture is compared: all of it, or tiles of it; as it is, and turned or flipped.

Each such view is an entry of the bank by itself. Its name is the picture's with the view behind it, "part.png [turned 90]" or
"part.png [tile 2,3]", so that every entry says where it came from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from fastspade.errors import InputError
from fastspade.images.decode import Decoded
from fastspade.images.geometry import CropBox

Turn = float | str
"""Degrees, counter-clockwise, or "horizontal" or "vertical": mirrored left to right, or top to bottom."""

FLIPS = ("horizontal", "vertical")
_VIEW = re.compile(r"(.*?)(?: \[turned ([^\[\]]+)\])?(?: \[tile (\d+),(\d+)\])?", re.DOTALL)


@dataclass(frozen=True)
class ViewName:
    """picture: its own name. turn: None for the picture as it is. tile: row and column, None for the whole picture."""

    picture: str
    turn: Turn | None = None
    tile: tuple[int, int] | None = None

    def __str__(self) -> str:
        turned = "" if self.turn is None else f" [turned {self.turn if isinstance(self.turn, str) else f'{self.turn:g}'}]"
        return f"{self.picture}{turned}" + ("" if self.tile is None else f" [tile {self.tile[0]},{self.tile[1]}]")

    @classmethod
    def parse(cls, name: str) -> ViewName:
        found = _VIEW.fullmatch(name)
        assert found is not None  # everything is optional
        picture, turn, row, column = found.groups()
        known = None if turn is None else turn if turn in FLIPS else float(turn)
        return cls(picture, known, None if row is None else (int(row), int(column)))


@dataclass(frozen=True)
class Tile:
    """row, column: its place among the tiles. top, left: in pixels of the picture, whose size is `of`."""

    row: int
    column: int
    top: int
    left: int
    of: tuple[int, int]

    def whole(self, box: CropBox, size: Sequence[int]) -> CropBox:
        """Where what was tiled lies in its original, given where this tile of `size` (H, W) lies there."""
        down, across = box.height / size[0], box.width / size[1]
        return CropBox(box.top - self.top * down, box.left - self.left * across, self.of[0] * down, self.of[1] * across)


@dataclass(frozen=True)
class Tiling:
    """size: (height, width) of a tile. overlap: the share of its sides that neighbours cover too, at least."""

    size: tuple[int, int]
    overlap: float

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Tiles that cover a picture evenly, row by row. Raises InputError for a picture smaller than a tile."""
        if height < self.size[0] or width < self.size[1]:
            raise InputError(f"tile ({self.size[0]}x{self.size[1]}) must fit in the image, got {height}x{width} pixels; give a "
                             "smaller tile, or a resize to enlarge images")  # fmt: skip
        tops, lefts = self._starts(height, self.size[0]), self._starts(width, self.size[1])
        return [
            Tile(row, column, top, left, (height, width)) for row, top in enumerate(tops) for column, left in enumerate(lefts)
        ]

    def _starts(self, side: int, tile: int) -> list[int]:
        shared = min(tile - 1, math.ceil(self.overlap * tile))
        count = math.ceil((side - shared) / (tile - shared))
        return [0] if count <= 1 else [round(i * (side - tile) / (count - 1)) for i in range(count)]


def turned(picture: Decoded, turn: Turn) -> Decoded:
    """The picture turned about its middle or mirrored, at its own size; what comes in from outside is mirrored."""
    pixels = picture if isinstance(picture, torch.Tensor) else torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    found = turned_pixels(pixels, turn)
    if isinstance(picture, torch.Tensor):
        return found
    return Image.fromarray((found * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


def turned_pixels(pixels: torch.Tensor, turn: Turn) -> torch.Tensor:
    """(C, H, W) float -> the same size."""
    if isinstance(turn, str):
        return pixels.flip(2 if turn == "horizontal" else 1)
    height, width = pixels.shape[1:]
    quarter = turn / 90
    if quarter == round(quarter) and (height == width or round(quarter) % 2 == 0):
        return pixels.rot90(round(quarter) % 4, (1, 2))
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    # Coordinates run from -1 to 1 along either side, whatever its length.
    matrix = torch.tensor(
        [[cos, -sin * height / width, 0], [sin * width / height, cos, 0]], dtype=torch.float32, device=pixels.device
    )
    grid = F.affine_grid(matrix[None], [1, *pixels.shape], align_corners=False)
    return F.grid_sample(pixels[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0].clamp(0, 1)


def checked_turns(name: str, value: Any) -> tuple[Turn, ...]:
    """ "rotations", "flips", or several of those, degrees, "horizontal" and "vertical"; as degrees and flips, each once."""
    sets: dict[str, tuple[Turn, ...]] = {"rotations": (90.0, 180.0, 270.0), "flips": FLIPS}
    wanted: list[Turn] = []
    for one in [value] if isinstance(value, (str, int, float, np.number)) else () if value is None else value:
        if isinstance(one, str) and one in (*sets, *FLIPS):
            wanted += sets.get(one, (one,))
            continue
        try:
            degrees = float(one)
        except (TypeError, ValueError):
            degrees = math.nan
        if not math.isfinite(degrees) or isinstance(one, bool):
            raise InputError(
                f"{name} must be 'rotations', 'flips', or a list of degrees, 'horizontal' and 'vertical', got {value!r}"
            )
        wanted.append(degrees)
    return unique_turns(wanted)


def unique_turns(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Without those that change nothing, and each once."""
    wanted = [turn if isinstance(turn, str) else float(turn) % 360 for turn in turns]
    return tuple(dict.fromkeys(turn for turn in wanted if turn != 0))
