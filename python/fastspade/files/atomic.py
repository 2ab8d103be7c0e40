"""Files and folders that appear whole or not at all; files are still there after a power cut: written aside, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastspade.errors import FastspadeError, InputError, MissingFileError, StorageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a file beside `path` to write; it takes the place of `path` at the end, and is gone after a failure.

    Raises MissingFileError where the folder does not exist, StorageError where it cannot be written.
    """
    if not path.parent.is_dir():
        raise MissingFileError(f"path: the folder {path.parent} does not exist; create it before saving {path.name}")
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    replaced = False
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        yield aside
        os.chmod(aside, mode)  # the writer may have put a file of its own there
        sync(aside)
        os.replace(aside, path)
        replaced = True
        sync(path.parent)
    except BaseException as error:
        if not replaced:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        if not isinstance(error, OSError) or isinstance(error, FastspadeError):
            raise
        if replaced:
            raise StorageError(
                f"path: {path} has been written, but may be lost if the power fails now: {error.strerror or error}"
            ) from error
        raise storage_error(path, error) from error


def storage_error(path: Path, error: Exception) -> StorageError:
    return StorageError(f"path: cannot write {path}: {getattr(error, 'strerror', None) or error}; what was there is unchanged")


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_output(output: Path) -> None:
    """Raises InputError unless `output` is new or an empty folder, in a folder that exists."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output: {output} exists and is not an empty folder; name a new one")
    if not output.absolute().parent.is_dir():
        raise InputError(f"output: the folder {output.absolute().parent} does not exist")


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """What cannot be written inside is a StorageError that names the output and what the system says.

    numpy reports a write cut short without a number of the system's ("25600 requested and 2016 written").
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FastspadeError) or (error.errno is not None and error.errno not in NO_ROOM):
            raise
        why = error.strerror or "no space left on the disk, or a file grew too large"
        raise StorageError(f"output: cannot write {output}: {why}; nothing was kept") from error


@contextmanager
def written_at_once(output: Path) -> Iterator[Path]:
    """Yields a folder beside `output` to write into, renamed to it at the end; after a failure nothing is left."""
    check_output(output)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.absolute().parent))
    try:
        with writing(output):
            yield aside
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o777 & ~umask)
        if output.exists():
            output.rmdir()
        os.replace(aside, output)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
