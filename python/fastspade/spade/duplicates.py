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
    first = _first_of_each(bank)
    kept = [i for i, twin in enumerate(first) if twin == i]
    if len(kept) == len(bank):
        return bank
    if what:
        _warn(bank, first, f"{what} as if each were there once")
    chosen = torch.tensor(kept, device="cpu")
    return replace(
        bank,
        embeddings=bank.embeddings[chosen],
        names=tuple(bank.names[i] for i in kept),
        ids=tuple(bank.ids[i] for i in kept),
        levels=_Chosen(bank.levels, chosen),
    )


def tell_duplicates(bank: Snapshot, what: str) -> None:
    """Warns of images of the same features, naming a pair, and of what follows from them."""
    first = _first_of_each(bank)
    if any(twin != i for i, twin in enumerate(first)):
        _warn(bank, first, what)


def _first_of_each(bank: Snapshot) -> list[int]:
    """Of every image, the first one of the same features, which may be itself."""
    known: dict[bytes, list[int]] = {}
    first = []
    for i, row in enumerate(bank.embeddings[torch.arange(len(bank))].numpy()):
        alike = known.setdefault(row.tobytes(), [])
        twin = next((other for other in alike if _same(bank, other, i)), None)
        if twin is None:
            alike.append(i)
        first.append(i if twin is None else twin)
    return first


def _warn(bank: Snapshot, first: list[int], what: str) -> None:
    pairs = [(i, twin) for i, twin in enumerate(first) if twin != i]
    one, other = pairs[0]
    warnings.warn(
        f"{len(pairs)} of the {len(bank)} normal images are duplicates of others, for instance {bank.names[one]} is the same as "
        f"{bank.names[other]}; {what}",
        stacklevel=6,
    )


def _same(bank: Snapshot, one: int, other: int) -> bool:
    levels = bank.levels.gather(torch.tensor([one, other], device="cpu"))
    return all(torch.equal(level[0], level[1]) for level in levels)
