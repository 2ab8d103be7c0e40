"""One shard of a bank: an immutable safetensors file with the features of some images.

    features    (n, width)   all levels of an image in a row (fastspade.bank.layout)
    embeddings  (n, E) F32   sha256 (n, 32): of every image's features   ids (n,)   name_ends (n,), names: UTF-8, end to end

What comes after the features is the tail. It is read and verified at once when a shard is opened; an image's features when
they are first asked for. They are copied out of a memory map, which is made when the first of them are; where the file cannot
be mapped they are read with positioned reads. Either way only what was asked for takes memory, and a file that is cut short
under a reader gives an error.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastspade.bank.layout import Layout
from fastspade.bank.mapped import MappedFile
from fastspade.errors import ModelFileError

MOST_TAIL_BYTES = 64 << 20
READ_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link, and no wait for a pipe


@dataclass(frozen=True)
class ShardRecord:
    """What the manifest holds of a shard. sha256: of the tail, hex. gone: rows that were removed since."""

    file: str
    images: int
    name_bytes: int
    sha256: str
    gone: frozenset[int] = frozenset()

    @property
    def live(self) -> list[int]:
        return [row for row in range(self.images) if row not in self.gone]


class Shard:
    """A shard open for reading. It stays readable when its file is deleted.

    embeddings: (n, E) float32. ids, names: n of each. Raises ModelFileError where the file is not what `record` says.
    """

    def __init__(self, folder: Path, record: ShardRecord, layout: Layout) -> None:
        self.path, self.images, self.layout = folder / record.file, record.images, layout
        self._made_of = folder, record, layout
        tail_bytes = layout.tail_bytes(record.images, record.name_bytes)
        if tail_bytes > MOST_TAIL_BYTES:
            raise self._unusable(f"it would hold {tail_bytes} bytes beside the features, more than any shard does")
        self._file = open_regular(self.path)
        weakref.finalize(self, os.close, self._file).atexit = False
        features = record.images * layout.image_bytes
        self._size = size = layout.header_bytes + features + tail_bytes
        if os.fstat(self._file).st_size != size:
            raise self._unusable(f"it has {os.fstat(self._file).st_size} bytes, not {size}")
        if self._bytes(0, layout.header_bytes) != layout.header(record.images, record.name_bytes):
            raise self._unusable("its header is not that of the manifest")
        tail = self._bytes(layout.header_bytes + features, tail_bytes)
        if hashlib.sha256(tail).hexdigest() != record.sha256:
            raise self._unusable("its embeddings, ids or names have been altered (checksum)")
        self._read_tail(tail)
        self._verified = np.zeros(record.images, dtype=bool)
        self._map: MappedFile | None = None
        self._may_map = True

    def _read_tail(self, tail: bytes) -> None:
        count, width = self.images, self.layout.embedding
        data, start = [], 0
        for dtype, size in (("<f4", count * width), ("u1", count * 32), ("<i8", count), ("<i8", count)):
            data.append(np.frombuffer(tail, dtype, size, start))
            start += data[-1].nbytes
        ends, text = data[3].tolist(), tail[start:]
        if any(a > b for a, b in zip([0, *ends], [*ends, len(text)], strict=True)):
            raise self._unusable("its names do not follow each other")
        self.embeddings = torch.from_numpy(data[0].reshape(count, width).astype(np.float32))
        self._sums, self.ids = data[1].reshape(count, 32), tuple(data[2].tolist())
        try:
            self.names = tuple(text[a:b].decode() for a, b in zip([0, *ends], ends))
        except UnicodeDecodeError as error:
            raise self._unusable("its names are not UTF-8") from error
        if not self.embeddings.isfinite().all():
            raise self._unusable("its embeddings hold NaN or infinity")

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process, or a copy, the file is opened again: a descriptor's number means nothing there."""
        return _opened_again, self._made_of

    def forget(self) -> None:
        """Verify every image again at its next reading."""
        self._verified[:] = False

    def checksum(self, row: int) -> bytes:
        sha: bytes = self._sums[row].tobytes()
        return sha

    def read(self, rows: Sequence[int], out: torch.Tensor) -> None:
        """The features of `rows` into out (len(rows), width), each verified the first time it is read."""
        raw = out.view(torch.uint8).numpy()
        for i, row in enumerate(rows):
            self._copy(self.layout.header_bytes + row * self.layout.image_bytes, raw[i])
            if not self._verified[row]:
                if hashlib.sha256(raw[i]).digest() != self.checksum(row):
                    raise self._unusable(f"the features of {self.names[row]} have been altered (checksum)")
                if not out[i].isfinite().all():
                    raise self._unusable(f"the features of {self.names[row]} hold NaN or infinity")
                self._verified[row] = True

    def _copy(self, start: int, target: np.ndarray) -> None:
        if self._map is None and self._may_map:
            try:
                self._map = MappedFile(self._file, self._size)  # threads may make one each; one is kept
            except (OSError, ValueError):
                self._may_map = False
        if self._map is None:
            self._fill(start, target.data)
            return
        try:
            self._map.copy(start, target)
        except OSError as error:
            if error.errno == errno.EFAULT:
                raise self._unusable("it ends early, or its disk fails") from error
            raise self._unusable(f"it cannot be read: {error.strerror}") from error

    def _bytes(self, start: int, size: int) -> bytes:
        data = bytearray(size)
        self._fill(start, memoryview(data))
        return bytes(data)

    def _fill(self, start: int, target: memoryview) -> None:
        done = 0
        while done < len(target):
            try:
                count = os.preadv(self._file, [target[done:]], start + done)
            except OSError as error:
                raise self._unusable(f"it cannot be read: {error.strerror}") from error
            if count == 0:
                raise self._unusable("it ends early")
            done += count

    def _unusable(self, why: str) -> ModelFileError:
        return ModelFileError(f"path: {self.path} is not a usable shard of a fastspade bank: {why}")


def _opened_again(folder: Path, record: ShardRecord, layout: Layout) -> Shard:
    try:
        return Shard(folder, record, layout)
    except FileNotFoundError as error:
        raise ModelFileError(
            f"path: {folder / record.file} is gone: the bank was changed, or moved, since it was pickled; open it again"
        ) from error


def open_regular(path: Path) -> int:
    """A descriptor of an ordinary file. Raises ModelFileError for links, pipes, devices and folders, FileNotFoundError."""
    try:
        file = os.open(path, READ_FLAGS)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelFileError(f"path: {path} cannot be opened as an ordinary file: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ModelFileError(f"path: {path} is not an ordinary file")
    return file
