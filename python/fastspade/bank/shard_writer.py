"""Writing shards: images are written as they arrive, so that memory does not grow with their number."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from fastspade.bank.layout import Layout
from fastspade.bank.shard import MOST_TAIL_BYTES, Shard, ShardRecord
from fastspade.files.atomic import storage_error

SHARD_BYTES = 1 << 30  # a shard is closed when it has reached this
MOST_IMAGES = 1 << 16  # or when it holds this many


class ShardWriter:
    """Writes shards into a folder until `finish`, which returns their records, durably on disk. After a failure, `abandon`.

    Raises StorageError where the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        self._records: list[ShardRecord] = []
        self._file: int | None = None

    def add(self, rows: torch.Tensor, embeddings: torch.Tensor, names: Sequence[str], ids: Sequence[int]) -> None:
        """Images in order: rows (n, width), embeddings (n, E) float32, n names and ids."""
        raw = rows.contiguous().view(torch.uint8).numpy()
        for i, (row, name, number) in enumerate(zip(raw, names, ids, strict=True)):
            text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()
            if self._file is not None and self._is_full(len(text)):
                self._close()
            if self._file is None:
                self._open()
            self._write(memoryview(row), self.layout.header_bytes + len(self._ids) * self.layout.image_bytes)
            self._sums.append(hashlib.sha256(row).digest())
            self._embeddings.append(embeddings[i].to(torch.float32))
            self._ids.append(number)
            self._names += text
            self._name_ends.append(len(self._names))

    def add_from(self, shards: Iterable[tuple[Shard, Sequence[int]]]) -> None:
        """Copies rows of other shards, with their ids and names."""
        for shard, rows in shards:
            for row in rows:
                buffer = torch.empty(1, self.layout.width, dtype=self.layout.torch_dtype, device="cpu")
                shard.read([row], buffer)
                self.add(buffer, shard.embeddings[row : row + 1], [shard.names[row]], [shard.ids[row]])

    def finish(self) -> list[ShardRecord]:
        if self._file is not None:
            self._close()
        return self._records

    def abandon(self) -> None:
        """Leaves the open file; whoever holds the folder's lock deletes what no manifest names."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _is_full(self, name_bytes: int) -> bool:
        count = len(self._ids)
        tail = self.layout.tail_bytes(count + 1, len(self._names) + name_bytes)
        return count * self.layout.image_bytes >= SHARD_BYTES or count >= MOST_IMAGES or tail > MOST_TAIL_BYTES // 2

    def _open(self) -> None:
        self._path = self.folder / f"shard-{secrets.token_hex(16)}.safetensors"
        try:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise storage_error(self._path, error) from error
        self._embeddings: list[torch.Tensor] = []
        self._sums: list[bytes] = []
        self._ids: list[int] = []
        self._name_ends: list[int] = []
        self._names = bytearray()

    def _close(self) -> None:
        assert self._file is not None
        count = len(self._ids)
        tail = b"".join(
            [
                torch.stack(self._embeddings).numpy().astype("<f4").tobytes(),
                *self._sums,
                np.array(self._ids, dtype=np.int64).astype("<i8").tobytes(),
                np.array(self._name_ends, dtype=np.int64).astype("<i8").tobytes(),
                bytes(self._names),
            ]
        )
        self._write(memoryview(tail), self.layout.header_bytes + count * self.layout.image_bytes)
        self._write(memoryview(self.layout.header(count, len(self._names))), 0)
        try:
            os.fsync(self._file)
        except OSError as error:
            raise storage_error(self._path, error) from error
        os.close(self._file)
        self._file = None
        self._records.append(ShardRecord(self._path.name, count, len(self._names), hashlib.sha256(tail).hexdigest()))

    def _write(self, data: memoryview, at: int) -> None:
        assert self._file is not None
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self._file, data[done:], at + done)
            except OSError as error:
                raise storage_error(self._path, error) from error
