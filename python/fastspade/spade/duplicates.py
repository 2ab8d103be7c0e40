"""Normal images that are there twice: left out one by one, the other would match them perfectly, and say nothing of new ones."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from fastspade.bank import Snapshot
from fastspade.search.levels import Levels


class _Chosen:
    """Some images of other levels."""

    whole = None

    def __init__(self, levels: Levels, images: torch.Tensor) -> None:
        self._levels, self._images = levels, images
        self.shapes, self.dtype = levels.shapes, levels.dtype

    def __len__(self) -> int:
        return len(self._images)

    def gather(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self._levels.gather(self._images[images])


def without_duplicates(bank: Snapshot, what: str = "") -> Snapshot:
    """The bank with images of the same features there once each. what: is done as if they were, of which a warning tells,
    naming a pair; without it nothing is said."""
    first: dict[bytes, list[int]] = {}
    kept, pair, count = [], None, 0
    for i, row in enumerate(bank.embeddings[torch.arange(len(bank))].numpy()):
        alike = first.setdefault(row.tobytes(), [])
        twin = next((other for other in alike if _same(bank, other, i)), None)
        if twin is None:
            alike.append(i)
            kept.append(i)
        else:
            pair, count = pair or (bank.names[twin], bank.names[i]), count + 1
    if pair is None:
        return bank
    if what:
        warnings.warn(
            f"{count} of the {len(bank)} normal images are duplicates of others, for instance {pair[1]} is the same as {pair[0]}; "
            f"{what} as if each were there once",
            stacklevel=4,
        )
    chosen = torch.tensor(kept, device="cpu")
    return replace(
        bank,
        embeddings=bank.embeddings[chosen],
        names=tuple(bank.names[i] for i in kept),
        ids=tuple(bank.ids[i] for i in kept),
        levels=_Chosen(bank.levels, chosen),
    )


def _same(bank: Snapshot, one: int, other: int) -> bool:
    levels = bank.levels.gather(torch.tensor([one, other], device="cpu"))
    return all(torch.equal(level[0], level[1]) for level in levels)
