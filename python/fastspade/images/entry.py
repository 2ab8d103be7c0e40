"""A picture before and after it is decoded: what a source of images lists, and what a backbone is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image

from fastspade.images.decode import Decoded
from fastspade.images.geometry import CropBox


@dataclass
class ImageBatch:
    """Images ready for a backbone.

    pixels: (B, 3, H, W) float32 in [0, 1], resized and cropped, not normalised.
    names: one a picture: the file's path, or "image_00012" for pictures in memory.
    sizes: (height, width) of the originals, upright. crops: where each crop lies in its original.
    originals: for each picture, a function that decodes it again at its own size, as an RGB Pillow image.
    """

    pixels: torch.Tensor
    names: list[str]
    sizes: list[tuple[int, int]]
    crops: list[CropBox]
    originals: list[Callable[[], Image.Image]]

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class Entry:
    """One picture not yet decoded: what results call it, and a function that decodes it when it is needed."""

    name: str
    load: Callable[[], Decoded]

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor | Entry
"""One image, a stack of them, or a path, folder or glob."""

Images: TypeAlias = Picture | Iterable[Picture | Sequence[object]]
"""What `fastspade.Spade.fit` and `score` take: any picture, a list that mixes them, or a DataLoader of tensors or (tensor, label)."""
