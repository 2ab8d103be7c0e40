"""Files that appear whole or not at all, and are still there after a power cut: written aside, synced, renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastspade.errors import FastspadeError, MissingFileError, StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a file beside `path` to write; it takes the place of `path` at the end, and is gone after a failure.

    Raises MissingFileError where the folder does not exist, StorageError where it cannot be written.
    """
    if not path.parent.is_dir():
        raise MissingFileError(f"path: the folder {path.parent} does not exist; create it before saving {path.name}")
    aside = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        aside = Path(name)
        yield aside
        os.chmod(aside, 0o666 & ~_umask())
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)
    except BaseException as error:
        if aside is not None:
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FastspadeError):
            raise storage_error(path, error) from error
        raise


def storage_error(path: Path, error: Exception) -> StorageError:
    return StorageError(f"path: cannot write {path}: {getattr(error, 'strerror', None) or error}; what was there is unchanged")


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
