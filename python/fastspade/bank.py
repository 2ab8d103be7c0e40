"""The memory bank: what is kept of the normal images, and stage 1, the search for the nearest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastspade.errors import InputError
from fastspade.search import knn


@dataclass(frozen=True)
class Bank:
    """Features of N normal images.

    embeddings: (N, E) float32, the global average pool of the backbone's last block.
    pyramid: L tensors (N, C_l, H_l, W_l) float32 at native resolution, finest first.
    names: N names, one an image.
    """

    embeddings: torch.Tensor
    pyramid: tuple[torch.Tensor, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.embeddings) == 0:
            raise InputError("normal_images holds no images; at least one is needed")
        for i, level in enumerate(self.pyramid):
            if len(level) != len(self.embeddings):
                raise InputError(f"pyramid[{i}] holds {len(level)} images, but there are {len(self.embeddings)} embeddings")
        if len(self.names) != len(self.embeddings):
            raise InputError(f"names holds {len(self.names)} names for {len(self.embeddings)} images")

    def __len__(self) -> int:
        return len(self.embeddings)

    @classmethod
    def collect(cls, parts: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor], Sequence[str]]]) -> Bank:
        """Join batches of (embeddings, pyramid, names)."""
        if not parts:
            raise InputError("normal_images holds no images; at least one is needed")
        embeddings = torch.cat([part[0] for part in parts])
        levels = len(parts[0][1])
        pyramid = tuple(torch.cat([part[1][level] for part in parts]) for level in range(levels))
        return cls(embeddings, pyramid, tuple(name for part in parts for name in part[2]))

    def nearest(self, embeddings: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 1 (SPADE, eq. 1): squared L2 distances (B, k) float32, nearest first, and image indices (B, k) int64."""
        return knn(embeddings, self.embeddings, k)
