"""Reading a file through a memory map, such that a file that is cut short is an error and not a bus error.

What is asked for is copied out of the map: a later change of the file does not reach it. Before the copy the
file's length is looked at, and its pages are brought in with MADV_POPULATE_READ, which reports what touching them
would raise SIGBUS for: an end that has moved, a disk that fails. After it the process releases the pages, so that only what was
asked for counts as its memory. A file that is cut short during the copy itself still raises SIGBUS.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys

import numpy as np

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14 and newer, which Python does not name
_PIECE = 4 << 20  # bytes mapped in at once, beside what they are copied to
_AROUND = 2 << 20  # the system may bring in stretches of up to a large page


class MappedFile:
    """A file of `size` bytes, open for reading as the descriptor `file`, which must outlive this.

    Raises OSError or ValueError where the system or its file system cannot map it, or could only do so unguarded.
    """

    def __init__(self, file: int, size: int) -> None:
        if sys.platform != "linux":
            raise OSError(errno.ENOTSUP, "mapped reading is for Linux")
        self._file, self._size = file, size
        self._map = mmap.mmap(file, size, access=mmap.ACCESS_READ)
        self._map.madvise(_POPULATE_READ, 0, mmap.PAGESIZE)
        self._data = np.frombuffer(self._map, np.uint8)

    def copy(self, start: int, target: np.ndarray) -> None:
        """The bytes from `start` on into target (n,) uint8. Raises OSError where they are not there or cannot be read."""
        end = start + len(target)
        if not self._is_cached(start, end):
            os.posix_fadvise(self._file, start, end - start, os.POSIX_FADV_WILLNEED)  # one request, not one for every few pages
        for low in range(start, end, _PIECE):
            high = min(low + _PIECE, end)
            page = low - low % mmap.PAGESIZE
            if os.fstat(self._file).st_size < high:
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
            self._map.madvise(_POPULATE_READ, page, high - page)
            np.copyto(target[low - start : high - start], self._data[low:high])
            first = low - low % _AROUND
            self._map.madvise(mmap.MADV_DONTNEED, first, min(-(-high // _AROUND) * _AROUND, self._size) - first)

    def _is_cached(self, start: int, end: int) -> bool:
        """Whether the system seems to have these bytes in memory: asked of its two ends."""
        byte = bytearray(1)
        try:
            return all(os.preadv(self._file, [byte], at, os.RWF_NOWAIT) == 1 for at in (start, end - 1))
        except OSError:  # they would have to be waited for, or the file system does not say
            return False
