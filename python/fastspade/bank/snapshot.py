"""A state of the bank that never changes: what a score sees from beginning to end, whatever is added meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastspade.backbones.extractor import Features
from fastspade.errors import DtypeError, InputError
from fastspade.search import knn
from fastspade.search.levels import Levels, Shape, alone

STORAGE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Snapshot:
    """N normal images at one moment.

    embeddings: (N, E) float32. names, ids: N of each. next_id: what the next image will get. levels: the pyramids.
    """

    embeddings: torch.Tensor
    names: tuple[str, ...]
    ids: tuple[int, ...]
    next_id: int
    levels: Levels

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"embeddings": alone(self.embeddings)}

    @property
    def pyramid(self) -> tuple[torch.Tensor, ...]:
        """Whole levels (N, C_l, H_l, W_l): as they are where the bank is in memory, read from disk where it is not."""
        if self.levels.whole is not None:
            return self.levels.whole
        return tuple(self.levels.gather(torch.arange(len(self), device="cpu")))

    def nearest(self, embeddings: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 1 (SPADE, eq. 1): squared L2 distances (B, k) float32, nearest first, and image indices (B, k) int64."""
        return knn(embeddings, self.embeddings, k)

    def positions(self, ids: Sequence[int]) -> list[int]:
        """Where the images with these ids are. Raises InputError for an id that is not in the bank, or is named twice."""
        place = {known: i for i, known in enumerate(self.ids)}
        found = []
        for wanted in ids:
            if wanted not in place:
                raise InputError(f"ids must name images of the bank, which holds no image {wanted!r}")
            found.append(place[wanted])
        if len(set(found)) != len(found):
            raise InputError("ids must not name an image twice")
        return found


def check_storage_dtype(name: object) -> torch.dtype:
    if not isinstance(name, str) or name not in STORAGE_DTYPES:
        raise InputError(f"storage_dtype must be one of {', '.join(map(repr, STORAGE_DTYPES))}, got {name!r}")
    return STORAGE_DTYPES[name]


def stored(pyramid: Sequence[torch.Tensor], dtype: torch.dtype, names: Sequence[str]) -> list[torch.Tensor]:
    """Levels as the bank keeps them. Raises InputError where float16 cannot hold a value; it names level and image."""
    kept = [level.to(dtype) for level in pyramid]
    if dtype is torch.float16:
        for number, (level, wide) in enumerate(zip(kept, pyramid, strict=True)):
            if not level.isfinite().all():
                image = int((~level.isfinite()).flatten(1).any(dim=1).nonzero()[0])
                raise InputError(
                    f"storage_dtype float16 holds values up to 65504, but level {number} of {names[image]} has "
                    f"{float(wide[image].abs().max()):.6g}; use bfloat16 or float32"
                )
    return kept


def check_features(embeddings: torch.Tensor, pyramid: Sequence[torch.Tensor], names: Sequence[str]) -> None:
    """Raises InputError or DtypeError unless the three describe the same images."""
    if len(embeddings) == 0:
        raise InputError("normal_images holds no images; at least one is needed")
    if embeddings.ndim != 2 or embeddings.dtype != torch.float32:
        raise InputError(f"embeddings must be (N, E) float32, got {tuple(embeddings.shape)} {embeddings.dtype}")
    if len(pyramid) == 0:
        raise InputError("pyramid must hold at least one level, got none")
    for i, level in enumerate(pyramid):
        if level.ndim != 4 or level.dtype not in STORAGE_DTYPES.values() or level.dtype != pyramid[0].dtype:
            raise DtypeError(
                f"pyramid[{i}] must be (N, C, H, W) of one type, float32, float16 or bfloat16; "
                f"got {tuple(level.shape)} {level.dtype}"
            )
        if len(level) != len(embeddings):
            raise InputError(f"pyramid[{i}] holds {len(level)} images, but there are {len(embeddings)} embeddings")
    if len(names) != len(embeddings):
        raise InputError(f"names holds {len(names)} names for {len(embeddings)} images")


def check_alike(shapes: tuple[Shape, ...], embedding: int, part: Features) -> None:
    """Raises InputError unless features have the shapes of a bank's."""
    theirs = tuple(tuple(level.shape[1:]) for level in part.pyramid)
    if theirs != shapes or part.embeddings.shape[1] != embedding:
        raise InputError(
            f"{part.names[0]} gives levels {list(theirs)} and an embedding of {part.embeddings.shape[1]}, the bank holds "
            f"{list(shapes)} and {embedding}; both need the same resize and crop"
        )
