"""A picture before and after it is decoded: what a source of images lists, and what a backbone is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image

from fastspade.images.decode import Decoded, size_of
from fastspade.images.geometry import CropBox
from fastspade.images.views import Tile


@dataclass
class ImageBatch:
    """Images ready for a backbone.

    pixels: (B, 3, H, W) float32 in [0, 1], resized and cropped, not normalised.
    names: one per picture: the file's path, or "image_00012" for pictures in memory.
    sizes: (height, width) of the originals, upright. crops: where each crop lies in its original.
    originals: for each picture, a function that decodes it again at its own size, as an RGB Pillow image.
    tiles: for each, which part of a picture it is; None where it is not a tile. A batch holds tiles of one picture only.
    complete: how many pictures end in this batch; of a tiled or turned one other views may have come before.
    inside: (B, H, W) bool, which pixels lie in the region of interest; None where there is no such region.
    """

    pixels: torch.Tensor
    names: list[str]
    sizes: list[tuple[int, int]]
    crops: list[CropBox]
    originals: list[Callable[[], Image.Image]]
    tiles: list[Tile | None]
    complete: int
    inside: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class Entry:
    """One picture not yet decoded: what results call it, and functions that decode it when it is needed, or tell its upright
    (height, width), where that is known without decoding it.

    in_memory: its pixels are the caller's, who may write others over them once they have been decoded. stamp: of what can be read
    again later, something that changes with it.
    """

    name: str
    load: Callable[[], Decoded]
    in_memory: bool = False
    size: Callable[[], tuple[int, int]] | None = None
    stamp: Callable[[], object] | None = None

    def measured(self) -> tuple[int, int]:
        """(height, width)."""
        return size_of(self.load()) if self.size is None else self.size()


Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor | Entry
"""One image, a stack of them, or a path, folder or glob."""

Images: TypeAlias = Picture | Iterable[Picture | Sequence[object]]
"""What `fastspade.Spade.fit` and `score` take: any picture, or whatever yields pictures or (picture, label): a list that mixes
them, a set, a Series, a generator, a DataLoader."""
