"""A bank on disk: its state, read only as far as it is asked for, and the changes to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastspade.backbones.extractor import Features
from fastspade.bank.folder import BankFolder
from fastspade.bank.layout import Layout
from fastspade.bank.manifest import Manifest, read_manifest
from fastspade.bank.shard import Shard, ShardRecord
from fastspade.bank.shard_writer import SHARD_BYTES, ShardWriter
from fastspade.bank.snapshot import Snapshot, check_alike, stored
from fastspade.errors import InputError, ModelFileError, StorageError
from fastspade.search.levels import Shape, shapes_of


class FileLevels:
    """Pyramids in shards. place: (N, 2) int64, every image's shard and row."""

    whole = None

    def __init__(self, layout: Layout, shards: tuple[Shard, ...], place: torch.Tensor) -> None:
        self.layout, self._shards, self._place = layout, shards, place
        self.shapes: tuple[Shape, ...] = layout.shapes
        self.dtype = layout.torch_dtype

    def __len__(self) -> int:
        return len(self._place)

    def gather(self, images: torch.Tensor) -> list[torch.Tensor]:
        rows = torch.empty(len(images), self.layout.width, dtype=self.dtype, device="cpu")
        for i, (shard, row) in enumerate(self._place[images].tolist()):
            self._shards[shard].read([row], rows[i : i + 1])
        return self.layout.split(rows)


class StoredBank:
    """The bank in a folder. Its changes are durable when they return; in between others may have written: what they did is
    taken up first, and nothing is lost."""

    def __init__(self, path: str | Path) -> None:
        """Raises MissingFileError or ModelFileError."""
        self.folder = BankFolder(path)
        self.manifest, self.shards = self.folder.read()

    def snapshot(self) -> Snapshot:
        place = [(i, row) for i, record in enumerate(self.manifest.shards) for row in record.live]
        rows = [torch.tensor(record.live, device="cpu") for record in self.manifest.shards]
        ids = tuple(self.shards[i].ids[row] for i, row in place)
        if len(set(ids)) != len(ids) or min(ids) < 0 or max(ids) >= self.manifest.next_id:
            raise self.folder.unusable("its ids are not different numbers below next_id")
        return Snapshot(
            torch.cat([shard.embeddings[live] for shard, live in zip(self.shards, rows, strict=True)]),
            tuple(self.shards[i].names[row] for i, row in place),
            ids,
            self.manifest.next_id,
            FileLevels(self.manifest.layout, self.shards, torch.tensor(place, device="cpu")),
        )

    def verify(self) -> None:
        """Read and check everything, removed images included. Raises ModelFileError."""
        buffer = torch.empty(1, self.manifest.layout.width, dtype=self.manifest.layout.torch_dtype, device="cpu")
        for shard in self.shards:
            shard.forget()
            for row in range(shard.images):
                shard.read([row], buffer)

    def append(self, parts: Iterable[Features]) -> tuple[int, ...]:
        """Add images at the end; returns their ids. Nothing is changed where anything fails."""
        with self._changed():
            first = self.manifest.next_id
            records = write_shards(self.folder.path, self.manifest.layout, parts, first)
            next_id = first + sum(record.images for record in records)
            self._commit((*self.manifest.shards, *records), next_id)
            with suppress(StorageError, ModelFileError):  # the images are there; only tidying did not succeed
                self._fold()
        return tuple(range(first, next_id))

    def remove(self, ids: list[int]) -> None:
        """Take images out. Shards of which most is gone are written anew without it."""
        with self._changed():
            snapshot = self.snapshot()
            gone = snapshot.positions(ids)
            if len(gone) == len(snapshot):
                raise InputError("ids name all images of the bank; one must be left")
            wanted, records = set(ids), []
            for record, shard in zip(self.manifest.shards, self.shards, strict=True):
                lost = record.gone | {row for row in record.live if shard.ids[row] in wanted}
                record = replace(record, gone=frozenset(lost))
                if 2 * len(lost) < record.images:
                    records.append(record)
                elif len(lost) < record.images:
                    records += self._rewritten([(shard, record.live)])
            self._commit(tuple(records), self.manifest.next_id)

    def set_options(self, options: dict[str, Any] | None, made_by: dict[str, Any] | None) -> None:
        with self._changed():
            self.manifest = replace(self.manifest, options=options, made_by=made_by)
            self._commit(self.manifest.shards, self.manifest.next_id)

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """Holds the folder, with the state on disk taken up."""
        with self.folder.locked():
            self.refresh()
            yield

    def refresh(self) -> None:
        self.manifest, self.shards = self.folder.read((self.manifest, self.shards))

    def _commit(self, shards: tuple[ShardRecord, ...], next_id: int) -> None:
        manifest = replace(self.manifest, shards=shards, next_id=next_id, generation=self.manifest.generation + 1)
        self.folder.commit(manifest)
        self.refresh()

    def _fold(self) -> None:
        """Join the last shards while the last but one is no larger than the last: a bank that grows image by image has few
        shards, and every image is written again a number of times that is the logarithm of theirs."""
        records, joined = list(self.manifest.shards), 1
        size = len(records[-1].live)
        limit = SHARD_BYTES // self.manifest.layout.image_bytes
        while joined < len(records) and len(records[-joined - 1].live) <= size and size + len(records[-joined - 1].live) <= limit:
            size += len(records[-joined - 1].live)
            joined += 1
        if joined > 1:
            old = [(shard, record.live) for record, shard in zip(records[-joined:], self.shards[-joined:], strict=True)]
            self._commit((*records[:-joined], *self._rewritten(old)), self.manifest.next_id)

    def _rewritten(self, rows: list[tuple[Shard, list[int]]]) -> list[ShardRecord]:
        writer = ShardWriter(self.folder.path, self.manifest.layout)
        try:
            writer.add_from(rows)
            return writer.finish()
        finally:
            writer.abandon()


def write_shards(
    folder: Path, layout: Layout, parts: Iterable[Features], first_id: int, ids: Iterable[int] | None = None
) -> list[ShardRecord]:
    """Shards of images that come in parts, with ids from `first_id` on, or those given. Raises InputError where there are
    none, or where a part does not have the layout."""
    writer = ShardWriter(folder, layout)
    numbers = iter(ids) if ids is not None else None
    try:
        for part in parts:
            check_alike(layout.shapes, layout.embedding, part)
            if numbers is None:
                mine: Sequence[int] = range(first_id, first_id + len(part.names))
                first_id += len(mine)
            else:
                mine = [next(numbers) for _ in part.names]
            rows = layout.join(stored(part.pyramid, layout.torch_dtype, part.names))
            writer.add(rows, part.embeddings, part.names, mine)
        records = writer.finish()
    finally:
        writer.abandon()
    if not records:
        raise InputError("images holds no images; at least one is needed")
    return records


def write_bank(
    path: str | Path,
    parts: Iterable[Features],
    dtype: str,
    *,
    ids: Iterable[int] | None = None,
    next_id: int | None = None,
    options: dict[str, Any] | None = None,
    made_by: dict[str, Any] | None = None,
    accept: Callable[[int, tuple[Shape, ...]], None] = lambda images, shapes: None,
) -> StoredBank:
    """Write a bank of images that come in parts, in place of the bank that may be in the folder, which is made if need be.

    accept: may refuse, by raising, the number of images and their levels before anything is exchanged.
    """
    folder = BankFolder(path)
    with folder.locked(create=True):
        try:
            generation = read_manifest(folder.path).generation + 1
        except FileNotFoundError:
            generation = 0
        parts = iter(parts)
        first = next(parts, None)
        if first is None:
            raise InputError("normal_images holds no images; at least one is needed")
        shapes = shapes_of(first.pyramid)
        layout = Layout(shapes, first.embeddings.shape[1], dtype)

        def every() -> Iterator[Features]:
            yield first
            yield from parts

        records = write_shards(folder.path, layout, every(), 0, ids)
        images = sum(record.images for record in records)
        accept(images, shapes)
        folder.commit(Manifest(layout, tuple(records), images if next_id is None else next_id, generation, options, made_by))
        return StoredBank(path)
