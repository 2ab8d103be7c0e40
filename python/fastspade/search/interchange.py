"""Arrays of other libraries in and out of the search: numpy, and whatever speaks DLPack (CuPy, JAX and others).

What comes in is read in place wherever its layout allows; what goes out is handed over without a copy. All arrays of a
call must be of one library, and the results are of that library too. `PreparedGallery` belongs to none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from fastspade.errors import DtypeError, InputError

KINDS = "torch.Tensor, numpy array or an array with __dlpack__"


class Library:
    """Whose arrays a call was given. This one is torch, which needs no conversion."""

    name = "torch.Tensor"

    def tensor(self, argument: str, value: Any) -> torch.Tensor:
        """An array of this library -> a tensor on the same memory where possible."""
        tensor: torch.Tensor = value
        return tensor

    def levels(self, argument: str, levels: Any) -> Any:
        """A pyramid of this library -> tensors, level by level."""
        return [self.tensor(name, level) for name, level in named_levels(argument, levels)] or levels

    def array(self, tensor: torch.Tensor) -> Any:
        """A result -> an array of this library."""
        return tensor


class _Numpy(Library):
    name = "numpy array"

    def tensor(self, argument: str, value: np.ndarray) -> torch.Tensor:
        if isinstance(value, np.ma.MaskedArray):
            raise DtypeError(f"{argument} must not be a masked array; fill it first, for instance with filled(0)")
        if value.dtype.name == "bfloat16":  # ml_dtypes'; numpy has no such type of its own
            return _from_numpy(value.view(np.int16)).view(torch.bfloat16)
        try:
            return _from_numpy(value)
        except TypeError:
            raise DtypeError(f"{argument} must be an array of floats or integers, got dtype {value.dtype}") from None

    def array(self, tensor: torch.Tensor) -> np.ndarray:
        return tensor.numpy()


class _Dlpack(Library):
    """Any other library. Results become its own through the from_dlpack of its array namespace (array API standard) or, as
    in CuPy before it had one, of its package; else they stay tensors."""

    def __init__(self, value: Any) -> None:
        package = sys.modules.get(type(value).__module__.partition(".")[0])
        namespace = value.__array_namespace__() if hasattr(value, "__array_namespace__") else package
        self._from_dlpack = getattr(namespace, "from_dlpack", None)
        kind = type(value)
        self.name = f"{kind.__module__.partition('.')[0]} {kind.__qualname__}"
        if self._from_dlpack is not None and (name := getattr(namespace, "__name__", None)):
            self.name = f"{name.partition('.')[0]} array"

    def tensor(self, argument: str, value: Any) -> torch.Tensor:
        try:
            return from_dlpack(value)
        except Exception as error:  # every library refuses in its own way
            raise DtypeError(
                f"{argument} could not be read through DLPack ({type(error).__name__}: {error}); "
                f"pass a torch.Tensor or numpy array instead"
            ) from error

    def array(self, tensor: torch.Tensor) -> Any:
        if self._from_dlpack is None:
            return tensor
        array = self._from_dlpack(tensor)
        # JAX without jax_enable_x64 has no int64: it hands out int32, and would wrap round what does not fit.
        size = getattr(getattr(array, "dtype", None), "itemsize", tensor.element_size())
        if size < tensor.element_size() and tensor.numel() and int(tensor.max()) > np.iinfo(np.int32).max:
            raise InputError(f"gallery is so large that its indices need int64, but the {self.name} would be {array.dtype}")
        return array


_TORCH, _NUMPY = Library(), _Numpy()


def library_of(*arguments: tuple[str, Any]) -> Library:
    """Whose arrays the named arguments are; None is left out. Raises DtypeError where they are of several libraries."""
    found, first = _TORCH, ""
    for name, value in arguments:
        if value is None:
            continue
        library = _library(name, value)
        if not first:
            found, first = library, name
        elif library.name != found.name:
            raise DtypeError(f"{first} is a {found.name} but {name} is a {library.name}; all must be of one library")
    return found


def named_levels(argument: str, levels: Any) -> list[tuple[str, Any]]:
    """The levels of a pyramid with their names for library_of; what is no sequence of levels is left to check_pyramid."""
    if isinstance(levels, Sequence) and not isinstance(levels, str):
        return [(f"{argument}[{i}]", level) for i, level in enumerate(levels)]
    return []


def _library(argument: str, value: Any) -> Library:
    if isinstance(value, torch.Tensor):
        return _TORCH
    if isinstance(value, np.ndarray):
        return _NUMPY
    if hasattr(value, "__dlpack__"):
        return _Dlpack(value)
    raise DtypeError(f"{argument} must be a {KINDS}, got {type(value).__name__}")


class _Borrowed:
    """Read-only memory shown to torch as writable: the search never writes to its input, and torch would warn."""

    def __init__(self, owner: np.ndarray) -> None:
        self.owner = owner
        self.__array_interface__ = dict(owner.__array_interface__, data=(owner.__array_interface__["data"][0], False))


def _from_numpy(value: np.ndarray) -> torch.Tensor:
    """A tensor on the array's memory, or on a copy where torch cannot express its strides or byte order."""
    readable = value.dtype.isnative and all(stride >= 0 and stride % value.itemsize == 0 for stride in value.strides)
    if not readable:
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    return torch.from_numpy(value if value.flags.writeable else np.asarray(_Borrowed(value)))
