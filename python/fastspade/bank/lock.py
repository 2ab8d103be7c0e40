"""Who may change a bank: a lock of the system (flock) on a file, which ends with its holder, also where that is killed.

A lock holds between processes of one machine, and between objects of one process. Whether it holds between machines that
share a file system depends on that file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastspade.errors import BankLockedError, StorageError
from fastspade.files.atomic import storage_error

_PID_BYTES = 20


@contextmanager
def held(file: Path, bank: Path, *, create: bool = False) -> Iterator[None]:
    """Holds `file` against everybody else who asks for it. bank: what the messages name.

    create: make the file where it is not there, and keep the holder's process number in it, for the messages.

    Raises BankLockedError where there is another holder, StorageError where it cannot be locked, FileNotFoundError without
    `create` where it is not there.
    """
    try:
        import fcntl
    except ImportError as error:
        raise StorageError(f"path: {bank} can only be changed where the system has flock") from error
    while True:
        handle = _open(file, create)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise storage_error(bank, error) from error
                raise BankLockedError(f"path: {bank} is being written{_owner(handle)}; try again when that has ended") from None
            if not _is_still(file, handle):
                continue  # its last holder has replaced or deleted the file, and others may hold the one that is there now
            if create:
                with contextlib.suppress(OSError):
                    os.pwrite(handle, f"{os.getpid():<{_PID_BYTES}}".encode(), 0)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)  # also where a forked child still has the descriptor
            return
        finally:
            os.close(handle)


def _open(file: Path, create: bool) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK if create else os.O_RDONLY, 0o666)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not create:
            raise
        raise storage_error(file, error) from error


def _is_still(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False


def _owner(handle: int) -> str:
    try:
        number = os.pread(handle, _PID_BYTES, 0)
    except OSError:
        return ""
    return f" (process {int(number)})" if number.strip().isdigit() else ""
