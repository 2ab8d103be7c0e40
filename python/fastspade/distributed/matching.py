"""Stage 2 over a sharded bank: every rank searches its own images among each query's K, and the results are merged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from fastspade.distributed.bank import ShardedBank, absent, merged
from fastspade.errors import InputError
from fastspade.spade.device_bank import DeviceBank
from fastspade.spade.matching import Matcher


class ShardedResident:
    """A sharded bank as the matcher wants it. own: this rank's images on its device, None where it holds none."""

    def __init__(self, bank: ShardedBank, device: torch.device, upsample: str, memory_limit: int | None) -> None:
        self.bank, self.levels, self.options = bank, bank.levels, (device, upsample, memory_limit)
        self.own = None if bank.local is None else DeviceBank(bank.local, *self.options)

    @cached_property
    def embeddings(self) -> torch.Tensor:
        """All ranks', on every rank: a pyramid's are hundreds of times larger. For stage 1 among turned copies."""
        return self.bank.embeddings[torch.arange(len(self.bank))].to(self.options[0])

    def nearest(self, embeddings: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 1 over all ranks."""
        return self.bank.nearest(embeddings, k, None if self.own is None else self.own.nearest)


@dataclass(frozen=True)
class ShardedMatcher(Matcher):
    """A Matcher whose stage 2 is split by the rank that holds the gallery image. Every rank is given the same queries."""

    def __post_init__(self) -> None:
        if self.window is not None and self.kappa > 1:
            raise InputError(f"window needs kappa=1 with a sharded bank, got kappa={self.kappa}")

    def _search(
        self,
        pyramid: list[torch.Tensor],
        bank: ShardedResident,  # type: ignore[override]  # a sharded Spade gives its matcher nothing else
        used: torch.Tensor,
        size: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ranks, height, width = bank.bank.ranks, *pyramid[0].shape[-2:]
        distances, indices = ranks.together("stage 2", lambda: self._own(pyramid, bank, used, size))
        distances, indices = merged(ranks, "stage 2", distances.flatten(0, 2), indices.flatten(0, 2), self.kappa)
        shape = (len(used), height, width, self.kappa)
        return distances.view(shape), indices.view(shape)

    def _own(
        self, pyramid: list[torch.Tensor], bank: ShardedResident, used: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, h, w, kappa): the nearest among this rank's images; fewer than kappa are filled up with absent ones."""
        queries, (height, width) = len(used), pyramid[0].shape[-2:]
        found = absent((queries, height, width, self.kappa), pyramid[0].device)
        if bank.own is None:
            return found
        start, pixels = bank.bank.start, height * width
        mine = (used >= start) & (used < start + len(bank.own.bank))
        for i in range(queries):  # each with its own number of images
            images = used[i][mine[i]] - start
            if len(images) == 0:
                continue
            reach = min(self.kappa, len(images) * pixels)
            query = [level[i : i + 1] for level in pyramid]
            distances, indices = Matcher._search(replace(self, kappa=reach), query, bank.own, images[None].contiguous(), size)
            found[0][i, ..., :reach] = distances[0]
            found[1][i, ..., :reach] = indices[0] + start * pixels
        return found
