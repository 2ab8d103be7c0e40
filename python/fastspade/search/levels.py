"""The pyramids of a gallery, wherever they lie: what searches that read them as needed are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

Shape = tuple[int, int, int]


class Levels(Protocol):
    """The levels of N images.

    shapes: (C_l, H_l, W_l) of every level, finest first. dtype: of the features. whole: the tensors (N, C_l, H_l, W_l)
    where they are in memory, None where they are not.
    """

    @property
    def shapes(self) -> tuple[Shape, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def whole(self) -> tuple[torch.Tensor, ...] | None: ...

    def __len__(self) -> int: ...

    def gather(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The levels (n, C_l, H_l, W_l) of `images` (n,) int64, in host memory; nothing of other images is read."""
        ...


class MemoryLevels:
    """Tensors in host memory."""

    def __init__(self, levels: Sequence[torch.Tensor]) -> None:
        self.whole = tuple(levels)
        self.shapes = shapes_of(self.whole)
        self.dtype = self.whole[0].dtype

    def __len__(self) -> int:
        return len(self.whole[0])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"whole": tuple(alone(level) for level in self.whole)}

    def gather(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [level[images] for level in self.whole]


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """Without the memory behind it that it shares with others, which would be pickled, too."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def shapes_of(levels: Sequence[torch.Tensor]) -> tuple[Shape, ...]:
    """(C_l, H_l, W_l) of levels (N, C_l, H_l, W_l)."""
    return tuple((level.shape[1], level.shape[2], level.shape[3]) for level in levels)


def image_bytes(levels: Levels) -> int:
    """Bytes of one image's features."""
    return sum(channels * height * width for channels, height, width in levels.shapes) * levels.dtype.itemsize
