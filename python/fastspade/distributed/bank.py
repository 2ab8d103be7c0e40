"""A memory bank split over ranks: every rank holds a run of the normal images, and stage 1 asks them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch

from fastspade.backbones.extractor import Features
from fastspade.bank import Bank, Snapshot
from fastspade.bank.bank import MERGED_AT_ONCE
from fastspade.distributed.ranks import Ranks
from fastspade.errors import InputError
from fastspade.search.levels import Levels, MemoryLevels, Shape

Search = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


class ShardedBank:
    """Features of N normal images, a run of them on every rank, in the order of the ranks. It does not grow or shrink.

    local: this rank's images, or None where it holds none. Made on all ranks together; so are the results of `nearest`,
    `levels` and `embeddings[...]`, which are bit-identical to those of one bank with all images.

    Raises InputError on all ranks where their features do not fit together, or no rank has any.
    """

    def __init__(self, local: Bank | Snapshot | None, ranks: Ranks) -> None:
        self.ranks = ranks
        self.local = local.snapshot if isinstance(local, Bank) else local
        mine = self.local and (len(self.local), self.local.levels.shapes, self.local.levels.dtype, self.local.embeddings.shape[1])
        told = ranks.gather("what each rank holds", mine)
        kinds = {one[1:] for one in told if one}
        if not kinds:
            raise InputError("no rank holds a normal image; at least one is needed")
        if len(kinds) > 1:
            raise InputError(f"all ranks need features of one shape and type, got {sorted(kinds, key=str)}")
        shapes, dtype, self._width = kinds.pop()
        self.counts = [one[0] if one else 0 for one in told]
        self.start = sum(self.counts[: ranks.rank])
        names = ranks.gather("names", () if self.local is None else self.local.names)
        self.names: tuple[str, ...] = tuple(name for part in names for name in part)
        ids = ranks.gather("ids", ((), 0) if self.local is None else (self.local.ids, self.local.next_id))
        self.ids: tuple[int, ...] = tuple(i for part, _ in ids for i in part)
        self.next_id = max(next_id for _, next_id in ids)
        if len(set(self.ids)) < len(self.ids):  # parts of one bank have its ids, but banks that ranks fitted all count from 0
            self.ids, self.next_id = tuple(range(len(self.ids))), len(self.ids)
        self.levels = ShardedLevels(self, shapes, dtype)
        self.embeddings = _Rows(self)
        self.skipped: list[tuple[str, Exception]] = []

    @classmethod
    def part_of(cls, bank: Bank, ranks: Ranks) -> ShardedBank:
        """Of a bank that every rank can open, keep this rank's run: N / ranks images, the first ranks one more."""
        start, stop = share(len(bank), ranks)
        return cls(_run(bank.snapshot, start, stop) if start < stop else None, ranks)

    @property
    def snapshot(self) -> ShardedBank:
        """Itself: it never changes."""
        return self

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"ShardedBank({len(self)} images on {self.ranks.size} ranks: {self.counts})"

    @property
    def level_shapes(self) -> tuple[Shape, ...]:
        return self.levels.shapes

    @property
    def dtype(self) -> torch.dtype:
        return self.levels.dtype

    def owner(self, image: int) -> int:
        """The rank that holds an image."""
        for rank, count in enumerate(self.counts):
            if image < count:
                return rank
            image -= count
        raise InputError(f"images must be below {len(self)}")

    def nearest(self, embeddings: torch.Tensor, k: int, search: Search | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 1, as Bank.nearest: every rank's own nearest, merged.

        search: stage 1 among this rank's own images, where they lie on another device.
        """

        def own() -> tuple[torch.Tensor, torch.Tensor]:
            found = absent((len(embeddings), k), embeddings.device)
            if self.local is not None:
                reach = min(k, len(self.local))
                distances, images = (search or self.local.nearest)(embeddings, reach)
                found[0][:, :reach], found[1][:, :reach] = distances, images + self.start
            return found

        return merged(self.ranks, "stage 1", *self.ranks.together("stage 1", own), k)

    def gathered(self) -> Bank:
        """One bank in memory with all images, on every rank."""
        everything = torch.arange(len(self))
        return Bank(self.embeddings[everything], self.levels.gather(everything), self.names, self.ids, next_id=self.next_id)

    def batches(self) -> Iterator[Features]:
        """All images' features in their order, in parts, on every rank; all ranks must iterate to the end."""
        for images in torch.arange(len(self)).split(MERGED_AT_ONCE):
            names = [self.names[i] for i in images.tolist()]
            yield Features(self.embeddings[images], self.levels.gather(images), names)

    def _fixed(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError("a sharded bank cannot change; change the whole bank, and load it again")

    add = remove = merge = _fixed

    @property
    def pyramid(self) -> NoReturn:
        raise InputError("a sharded bank has no pyramid in one place; ask for levels.gather(images)")


class ShardedLevels:
    """The pyramids of all ranks' images, read by `gather` alone (see fastspade.search.levels.Levels)."""

    whole = None

    def __init__(self, bank: ShardedBank, shapes: tuple[Shape, ...], dtype: torch.dtype) -> None:
        self._bank, self.shapes, self.dtype = bank, shapes, dtype

    def __len__(self) -> int:
        return len(self._bank)

    def gather(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The levels (n, C_l, H_l, W_l) of `images` on every rank, each sent by the rank that holds it."""
        return _collect(self._bank, images, self.shapes, self.dtype, lambda local, wanted: local.levels.gather(wanted))


class _Rows:
    """The embeddings of all ranks' images, indexed as the tensor (N, E) would be, by positions (n,)."""

    def __init__(self, bank: ShardedBank) -> None:
        self._bank = bank
        self.shape = (len(bank), bank._width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, images: torch.Tensor) -> torch.Tensor:
        take = lambda local, wanted: [local.embeddings[wanted]]
        return _collect(self._bank, images, [(self.shape[1],)], torch.float32, take)[0]


def _collect(
    bank: ShardedBank, images: torch.Tensor, shapes: Sequence[Sequence[int]], dtype: torch.dtype, take: Any
) -> list[torch.Tensor]:
    owners = torch.tensor([bank.owner(image) for image in images.tolist()], dtype=torch.int64)
    result = [torch.empty(len(images), *shape, dtype=dtype) for shape in shapes]
    for rank in owners.unique().tolist():
        places = (owners == rank).nonzero()[:, 0]
        sent = take(bank.local, images[places] - bank.start) if rank == bank.ranks.rank else None
        sizes = [(len(places), *shape) for shape in shapes]
        for whole, part in zip(result, bank.ranks.broadcast_tensors("features", sent, sizes, rank, dtype=dtype), strict=True):
            whole[places] = part
    return result


def absent(shape: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A result without neighbours: farther than any real one."""
    return (
        torch.full(shape, torch.inf, dtype=torch.float32, device=device),
        torch.full(shape, -1, dtype=torch.int64, device=device),
    )


def merged(
    ranks: Ranks, what: str, distances: torch.Tensor, indices: torch.Tensor, kappa: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kappa nearest of all ranks' results (rows, any number), the same on every rank.

    Each rank's are ascending, and lower ranks hold lower indices, so a stable sort by distance leaves ties at the lower index.
    Distances are ordered as they are returned, in float32, by every search: the merged answer is that of one search.
    """
    joined = torch.cat(ranks.gather_tensors(what, distances), dim=1)
    places = torch.cat(ranks.gather_tensors(what, indices), dim=1)
    ordered, order = torch.sort(joined, dim=1, stable=True)
    return ordered[:, :kappa].contiguous(), places.gather(1, order[:, :kappa])


def share(total: int, ranks: Ranks) -> tuple[int, int]:
    """This rank's run of `total` things."""
    each, more = divmod(total, ranks.size)
    start = ranks.rank * each + min(ranks.rank, more)
    return start, start + each + (ranks.rank < more)


def _run(now: Snapshot, start: int, stop: int) -> Snapshot:
    """The images from start to stop. What is in memory is copied, so that the rest can be freed; what is on disk stays there."""
    whole = now.levels.whole
    levels = _Run(now.levels, start, stop) if whole is None else MemoryLevels([level[start:stop].clone() for level in whole])
    return Snapshot(now.embeddings[start:stop].clone(), now.names[start:stop], now.ids[start:stop], now.next_id, levels)


class _Run:
    """Some of the images of levels on disk, one after another."""

    whole = None

    def __init__(self, levels: Levels, start: int, stop: int) -> None:
        self._levels, self._start, self._count = levels, start, stop - start
        self.shapes, self.dtype = levels.shapes, levels.dtype

    def __len__(self) -> int:
        return self._count

    def gather(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self._levels.gather(images + self._start)
