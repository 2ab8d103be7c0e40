"""Types of arguments, for annotations of your own: what images, arrays of metrics and options may be."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fastspade.images import Entry

__all__ = ["Arrays", "Images", "Options", "Picture"]

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor | Entry
"""One image, a stack of them, or a path, folder or glob."""

Images: TypeAlias = Picture | Iterable[Picture | Sequence[object]]
"""What `fastspade.Spade.fit` and `score` take: any picture, a list that mixes them, or a DataLoader of tensors or (tensor, label)."""

Arrays: TypeAlias = npt.ArrayLike | torch.Tensor | Sequence[np.ndarray] | Sequence[torch.Tensor]
"""What the metrics take: one array or tensor, or a sequence of them."""


class Options(TypedDict, total=False):
    """The options of `fastspade.Spade`, all but the backbone."""

    k: int
    k_image: int | None
    kappa: int
    layers: Sequence[str] | None
    upsample: str
    sigma: float
    image_score: str
    local_average: bool
    window: float | None
    resize: int
    crop: int
    keep_crop: bool
    device: str | torch.device | None
    batch_size: int
    num_workers: int | None
    progress: bool
    weights: str | Path | None
    precision: str
    storage_dtype: str
    max_pixels: int | None
    memory_limit: int | None
