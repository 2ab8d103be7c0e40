"""Tensors between pages that may not be touched: a read or write one byte outside ends the process with SIGSEGV."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import torch

NOTHING, READ = 0, 1  # PROT_NONE, PROT_READ
LAYOUTS = ("planes", "vectors", "padded", "transposed", "one_image")
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """`size` bytes, filled with 0xff, that end at a forbidden page (at_end) or begin after one."""

    def __init__(self, size: int, at_end: bool) -> None:
        page = mmap.PAGESIZE
        self._inside = -(-size // page) * page
        self._map = mmap.mmap(-1, self._inside + 2 * page)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._protect(0, page, NOTHING)
        self._protect(page + self._inside, page, NOTHING)
        self.bytes = np.frombuffer(self._map, np.uint8, size, page + (self._inside - size if at_end else 0))
        self.bytes[:] = 0xFF

    def _protect(self, offset: int, size: int, access: int) -> None:
        if _mprotect(self._address + offset, size, access) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def read_only(self) -> None:
        self._protect(mmap.PAGESIZE, self._inside, READ)


def guarded(values: torch.Tensor, layout: str, at_end: bool) -> torch.Tensor:
    """`values` (n, c, h, w) in read-only guarded memory. Between the elements of "padded" there is NaN; "one_image" has all
    images where the first is."""
    n, c, h, w = values.shape
    strides = {
        "planes": (c * h * w, h * w, w, 1),
        "vectors": (c * h * w, 1, w * c, c),
        "padded": (c * (h * (3 * w + 1) + 5) + 7, h * (3 * w + 1) + 5, 3 * w + 1, 3),
        "transposed": (c * h * w, h * w, 1, h),
        "one_image": (0, h * w, w, 1),
    }[layout]
    last = sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
    memory = Guarded((last + 1) * values.element_size(), at_end)
    raw = torch.from_numpy(memory.bytes.view({4: np.float32, 2: np.int16}[values.element_size()]))
    tensor = raw.view(values.dtype).as_strided(values.shape, strides)
    first = slice(1) if layout == "one_image" else slice(None)
    tensor[first] = values[first]
    memory.read_only()
    return tensor
