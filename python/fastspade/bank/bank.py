"""The memory bank: the normal images' features, which grow and shrink without being computed again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastspade.backbones.extractor import Extractor, Features
from fastspade.bank.checks import check_same_maker, numbers
from fastspade.bank.room import Room
from fastspade.bank.snapshot import Snapshot, check_alike, check_features, stored
from fastspade.bank.stored import StoredBank, write_bank
from fastspade.errors import InputError
from fastspade.files.home import user_path
from fastspade.search.levels import MemoryLevels, Shape

if TYPE_CHECKING:
    from fastspade.images.entry import Images

MERGED_AT_ONCE = 16  # images


class Bank:
    """Features of N normal images, in memory or, where `open` or `write` made the bank, in a folder.

    Every image has an id, a number that stays its own and is never given to another. `add`, `remove` and `merge` change the
    bank by exchanging its `snapshot` for another: a reader of one sees the same images throughout, and other threads see
    the bank before the change or after it. Changes to a bank in a folder are on disk when they return. Scores are
    bit-identical to those of a bank fitted at once on the same images in the same order.

    embeddings: (N, E) float32, the global average pool of the backbone's last block.
    pyramid: L tensors (N, C_l, H_l, W_l) at native resolution, finest first; float32, float16 or bfloat16.
    names: N names, one per image. ids: their ids; None numbers them from 0.
    extractor: what made the features; without it the bank cannot take images, only whole banks.
    made_by: the extractor's spec, where that is known but the extractor is not at hand.
    """

    def __init__(
        self,
        embeddings: torch.Tensor,
        pyramid: Sequence[torch.Tensor],
        names: Sequence[str],
        ids: Sequence[int] | None = None,
        *,
        next_id: int | None = None,
        extractor: Extractor | None = None,
        made_by: dict[str, Any] | None = None,
    ) -> None:
        check_features(embeddings, pyramid, names)
        ids = tuple(range(len(names))) if ids is None else tuple(ids)
        if len(ids) != len(names) or len(set(ids)) != len(ids) or min(ids) < 0:
            raise InputError(f"ids must be {len(names)} different numbers, 0 or more")
        next_id = max(ids) + 1 if next_id is None else next_id
        if next_id <= max(ids):
            raise InputError(f"next_id must be above all ids, the highest of which is {max(ids)}; got {next_id}")
        self._snapshot = Snapshot(embeddings, tuple(names), ids, next_id, MemoryLevels(pyramid))
        self._set_up(extractor, made_by, None)

    def _set_up(self, extractor: Extractor | None, made_by: dict[str, Any] | None, store: StoredBank | None) -> None:
        self._extractor, self._made_by, self._store = extractor, made_by, store
        self._changing, self._room = threading.Lock(), Room()
        self.skipped: list[tuple[str, Exception]] = []  # what skip_bad left out of the last add

    @classmethod
    def open(cls, path: str | Path, *, extractor: Extractor | None = None) -> Bank:
        """The bank in a folder. What it is made of is verified at once, an image's features when they are first read.

        Raises MissingFileError, or ModelFileError saying what is wrong.
        """
        return cls._over(StoredBank(path), extractor)

    @classmethod
    def _over(cls, store: StoredBank, extractor: Extractor | None) -> Bank:
        bank = cls.__new__(cls)
        bank._snapshot = store.snapshot()
        bank._set_up(extractor, store.manifest.made_by, store)
        return bank

    @classmethod
    def write(
        cls,
        path: str | Path,
        parts: Iterable[Features],
        *,
        storage_dtype: str = "float32",
        extractor: Extractor | None = None,
        options: dict[str, Any] | None = None,
        accept: Callable[[int, tuple[Shape, ...]], None] = lambda images, shapes: None,
    ) -> Bank:
        """A bank in a folder of all images of `parts`, which are written as they are computed; see `save`.

        accept: may refuse, by raising, the number of images and their levels before the folder changes.
        """
        made_by = None if extractor is None else extractor.spec()
        return cls._over(write_bank(path, parts, storage_dtype, options=options, made_by=made_by, accept=accept), extractor)

    @classmethod
    def collect(
        cls, parts: Iterable[Features], *, storage_dtype: torch.dtype = torch.float32, extractor: Extractor | None = None
    ) -> Bank:
        """A bank in memory of all images of `parts`."""
        return cls(*_joined([_stored(part, storage_dtype) for part in parts]), extractor=extractor)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_changing", "_room")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_changing": threading.Lock(), "_room": Room()}

    def __repr__(self) -> str:
        now = self._snapshot
        return f"Bank({len(now)} images, levels {list(now.levels.shapes)}, {str(now.levels.dtype).removeprefix('torch.')})"

    # -- reading

    @property
    def snapshot(self) -> Snapshot:
        """The bank as it is now. Take it once where several of its values must belong together."""
        return self._snapshot

    def __len__(self) -> int:
        return len(self._snapshot)

    @property
    def embeddings(self) -> torch.Tensor:
        """(N, E) float32."""
        return self._snapshot.embeddings

    @property
    def names(self) -> tuple[str, ...]:
        return self._snapshot.names

    @property
    def ids(self) -> tuple[int, ...]:
        return self._snapshot.ids

    @property
    def level_shapes(self) -> tuple[Shape, ...]:
        """(C_l, H_l, W_l) of every level, finest first."""
        return self._snapshot.levels.shapes

    @property
    def dtype(self) -> torch.dtype:
        """What the levels are stored as."""
        return self._snapshot.levels.dtype

    @property
    def pyramid(self) -> tuple[torch.Tensor, ...]:
        """All levels (N, C_l, H_l, W_l). In memory they are not copied; from disk all of them are read."""
        return self._snapshot.pyramid

    def levels(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The levels (n, C_l, H_l, W_l) of `images` (n,) int64, positions in the bank; only theirs are read."""
        return self._snapshot.levels.gather(images)

    def nearest(self, embeddings: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 1 (SPADE, eq. 1): squared L2 distances (B, k) float32, nearest first, and image indices (B, k) int64."""
        return self._snapshot.nearest(embeddings, k)

    @property
    def extractor(self) -> Extractor | None:
        return self._extractor

    def equip(self, extractor: Extractor) -> None:
        """Give the bank what made its features, so that it can take images."""
        self._extractor = extractor

    @property
    def made_by(self) -> dict[str, Any] | None:
        """What the features depend on (Extractor.spec), None where that is not known."""
        return self._made_by if self._extractor is None else self._extractor.spec()

    # -- on disk

    def save(self, path: str | Path, options: dict[str, Any] | None = None) -> None:
        """Write the bank into a folder, which is made, or whose bank is replaced, at one moment and durably.

        A bank saved to the folder it is in writes only what has changed: `options`, of the Spade it belongs to.

        Raises StorageError (a full disk; the old bank is as it was), BankLockedError where there is another writer,
        InputError where the folder holds other files.
        """
        path = user_path(path)
        if self._store is not None and path.exists() and path.samefile(self._store.folder.path):
            with self._changing:
                self._store.set_options(options, self.made_by)
                self._snapshot = self._store.snapshot()
            return
        now = self._snapshot
        write_bank(
            path, _batches(now), str(now.levels.dtype).removeprefix("torch."),
            ids=now.ids, next_id=now.next_id, options=options, made_by=self.made_by,
        )  # fmt: skip

    def verify(self) -> None:
        """Read everything and compare it with its checksums: ModelFileError if anything has been altered since it was written."""
        if self._store is not None:
            with self._changing:
                self._store.verify()

    @property
    def options(self) -> dict[str, Any] | None:
        """What the folder keeps of the Spade that the bank belongs to."""
        return None if self._store is None else self._store.manifest.options

    # -- growing and shrinking

    def add(self, images: Images, *, skip_bad: bool = False) -> tuple[int, ...]:
        """Add normal images of any kind that `Spade.fit` takes, after those that are there; returns their ids.

        skip_bad: leave unreadable images out and list them in `skipped`, instead of raising. Nothing is added where
        anything fails. Raises InputError where the bank has no backbone, or images give features of another shape.
        """
        if self._extractor is None:
            raise InputError(
                "this bank has no backbone, so it cannot take images; load it with Spade.load, or merge a bank of them"
            )
        stream = self._extractor.stream(images, skip_bad=skip_bad)
        ids = self._append(stream)
        self.skipped = list(stream.skipped)
        return ids

    def merge(self, other: Bank) -> tuple[int, ...]:
        """Add all images of another bank after those that are there; returns their ids in this one.

        Both must have been made by the same backbone with the same options, and be stored alike: InputError if not.
        """
        if not isinstance(other, Bank):
            raise InputError(f"other must be a Bank, got {type(other).__name__}")
        snapshot = other.snapshot
        if snapshot.levels.dtype != self.dtype:
            raise InputError(
                f"other is stored as {snapshot.levels.dtype}, this bank as {self.dtype}; both need the same storage_dtype"
            )
        check_same_maker(self.made_by, other.made_by)
        return self._append(_batches(snapshot))

    def remove(self, ids: Iterable[int]) -> None:
        """Remove images by their ids. Raises InputError for ids that are not there, and where none would be left."""
        wanted = numbers(ids)
        if self._store is not None:
            with self._changing:
                self._store.remove(wanted)
                self._snapshot = self._store.snapshot()
            return
        with self._changing:
            gone = self._snapshot.positions(wanted)
            if len(gone) == len(self._snapshot):
                raise InputError("ids name all images of the bank; one must be left")
            if gone:
                self._snapshot = self._without(gone)

    def _append(self, parts: Iterable[Features]) -> tuple[int, ...]:
        if self._store is not None:
            with self._changing:
                ids = self._store.append(parts)
                self._snapshot = self._store.snapshot()
            return ids
        new = [_stored(part, self.dtype) for part in parts]
        for part in new:
            check_alike(self.level_shapes, self.embeddings.shape[1], part)
        embeddings, pyramid, names = _joined(new)
        with self._changing:
            old = self._snapshot
            ids = tuple(range(old.next_id, old.next_id + len(names)))
            embeddings, *pyramid = self._room.extended([old.embeddings, *old.pyramid], [embeddings, *pyramid])
            self._snapshot = Snapshot(
                embeddings,
                old.names + tuple(names),
                old.ids + ids,
                old.next_id + len(ids),
                MemoryLevels(pyramid),
            )
        return ids

    def _without(self, gone: list[int]) -> Snapshot:
        old = self._snapshot
        left = sorted(set(range(len(old))) - set(gone))
        kept = torch.tensor(left, device="cpu")
        return Snapshot(
            old.embeddings[kept],
            tuple(old.names[i] for i in left),
            tuple(old.ids[i] for i in left),
            old.next_id,
            MemoryLevels(old.levels.gather(kept)),
        )


def _stored(part: Features, dtype: torch.dtype) -> Features:
    check_features(part.embeddings, part.pyramid, part.names)
    return Features(part.embeddings, stored(part.pyramid, dtype, part.names), part.names)


def _joined(parts: list[Features]) -> tuple[torch.Tensor, list[torch.Tensor], list[str]]:
    if not parts:
        raise InputError("images holds no images; at least one is needed")
    # A level's parts go as soon as they are put together: in the end all is there once, not twice.
    pyramid = [torch.cat([part.pyramid.pop(0) for part in parts]) for _ in range(len(parts[0].pyramid))]
    return torch.cat([part.embeddings for part in parts]), pyramid, [name for part in parts for name in part.names]


def _batches(snapshot: Snapshot) -> Iterator[Features]:
    """A bank's features in parts."""
    for images in torch.arange(len(snapshot), device="cpu").split(MERGED_AT_ONCE):
        names = [snapshot.names[i] for i in images.tolist()]
        yield Features(snapshot.embeddings[images], snapshot.levels.gather(images), names)
