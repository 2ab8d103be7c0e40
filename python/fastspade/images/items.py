"""What one item of `images` holds: a path, folder or glob, a PIL image, an array, a tensor, a stack of them, or a sequence."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MappingView, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile
from torch.utils.data import DataLoader

from fastspade.errors import DtypeError, FastspadeError, ImageReadError, InputError, MissingFileError
from fastspade.images.decode import Decoded, check_array, check_tensor, decode_array, decode_tensor, read_file, standardise
from fastspade.images.entry import Entry
from fastspade.images.further import first_alone
from fastspade.images.orientation import upright_size
from fastspade.images.paths import find
from fastspade.images.safe_file import count_pictures, read_lazily, read_size

NARROWEST = 32  # pixels that a picture of a gray stack (N, H, W) is wide, so that channels are not taken for columns


@dataclass
class Opened:
    """The pictures of some items. left_out: (name, error) of what lay beside them. bad: of what cannot be read."""

    entries: list[Entry] = field(default_factory=list)
    left_out: list[tuple[str, FastspadeError]] = field(default_factory=list)
    bad: list[tuple[str, FastspadeError]] = field(default_factory=list)


@dataclass
class _Frames:
    """A Pillow image of several pages or frames, and how many of these were taken."""

    image: Image.Image | None = None
    name: str = ""
    count: int = 0
    taken: int = 0


class Opener:
    """Opens items one after another, numbering the pictures that have no name.

    skip_bad: missing and unreadable files go to `bad` instead of being raised. copies: pixels are copied, since what yields
    them may write the next picture over them.
    """

    def __init__(self, *, skip_bad: bool, max_pixels: int | None, copies: bool = False) -> None:
        self._skip_bad, self._max_pixels, self._copies = skip_bad, max_pixels, copies
        self._count = 0
        self._frames = _Frames()

    def open(self, label: str, item: object) -> Opened:
        """The pictures of one item. Raises DtypeError, InputError and, unless skip_bad, MissingFileError and ImageReadError."""
        opened = Opened()
        for one in pictures_in(label, item):
            try:
                self._add(label, one, opened)
            except (MissingFileError, ImageReadError) as error:
                opened.bad.append((os.fspath(one), error))
        if opened.bad and not self._skip_bad:
            raise opened.bad[0][1]
        self._count += len(opened.entries)
        return opened

    def _add(self, label: str, item: Any, opened: Opened) -> None:
        if isinstance(item, Entry):
            opened.entries.append(item)
        elif isinstance(item, (str, os.PathLike)):
            found = find(label, os.fspath(item))
            limit = self._max_pixels
            for path in found.files:
                place = path.absolute()  # it is read again later, when the program may have changed its folder
                opened.entries.append(
                    Entry(
                        str(path),
                        partial(read_file, place, limit),
                        size=partial(read_size, place, limit),
                        stamp=partial(_stamp, place),
                    )
                )
            opened.left_out += found.left_out
            opened.bad += found.bad
        elif isinstance(item, Image.Image):
            if 0 in item.size:
                raise InputError(f"{label} must not be empty, got a PIL image of {item.size[1]}x{item.size[0]} pixels")
            name = getattr(item, "filename", "") or self._name(opened)
            if self._is_one_of_several(label, item, name, opened) and self._copies:  # it may go on to its next frame
                decoded = _load_pil(item, name, self._max_pixels)
                opened.entries.append(Entry(name, lambda: decoded, True))
                return
            # One that is still to be read from its file is no buffer that anyone writes to.
            own = item.copy() if self._copies and not isinstance(item, ImageFile.ImageFile) else item
            opened.entries.append(Entry(name, partial(_load_pil, own, name, self._max_pixels), True, partial(upright_size, own)))
        elif isinstance(item, torch.Tensor):
            stack = tensor_stack(label, item)
            for tensor in stack.clone() if self._copies else stack:
                opened.entries.append(
                    Entry(self._name(opened), partial(decode_tensor, tensor), True, partial(_sides, tensor.shape[1:]))
                )
        else:
            pictures = array_stack(label, item)
            for array in pictures.copy() if self._copies else pictures:
                opened.entries.append(Entry(self._name(opened), partial(decode_array, array), True, partial(_sides, array.shape)))

    def _is_one_of_several(self, label: str, image: Image.Image, name: str, opened: Opened) -> bool:
        """Whether Pillow has it from a file with further pages or frames. Of those that do not come, too, `left_out` tells."""
        if image is self._frames.image:  # as PIL.ImageSequence yields them
            if not self._copies:
                raise InputError(f"{label} is the same Pillow image of {self._frames.count} frames as before, which shows only one of "
                                 "them; give frame.copy() of each")  # fmt: skip
            self._frames.taken += 1
            return True
        opened.left_out += self.frames_left()
        count = count_pictures(image)
        if count > 1:
            # Whoever has gone on to another frame has chosen it.
            self._frames = _Frames(image, name, count, 1 if image.tell() == 0 else count)
        return count > 1

    def frames_left(self) -> list[tuple[str, FastspadeError]]:
        """What `skipped` says of the last such file, of which no more will come."""
        last, self._frames = self._frames, _Frames()
        return [first_alone(last.name, last.count - last.taken)] if last.taken < last.count else []

    def _name(self, opened: Opened) -> str:
        return f"image_{self._count + len(opened.entries):05d}"


def listed(images: Any) -> list[Any] | None:
    """The items of a collection that can be gone through at no cost; None for what yields them one after another."""
    if isinstance(images, (str, os.PathLike, Image.Image, torch.Tensor, Entry)):
        return [images]
    if hasattr(images, "__array__"):  # numpy's, a pandas Series, ...
        array = unmasked("images", images)
        if array.dtype.kind not in "OUS":
            return [array]
        return [os.fsdecode(one) if isinstance(one, bytes) else one for one in array.ravel()]
    if isinstance(images, (set, frozenset)):
        paths = all(isinstance(one, (str, os.PathLike)) for one in images)
        return sorted(images, key=os.fspath) if paths else list(images)  # a set of strings has another order in each process
    if isinstance(images, (list, tuple, deque)) or (isinstance(images, MappingView) and isinstance(images, Iterable)):
        return list(images)
    return None


class Stream:
    """Iterates the pictures of a DataLoader or of anything else that yields items, taken as they are asked for.

    skipped: (name, error) of what the last iteration left out.
    """

    def __init__(self, images: Any, argument: str, *, skip_bad: bool, max_pixels: int | None) -> None:
        self._images, self._argument = images, argument
        self._opener = partial(Opener, skip_bad=skip_bad, max_pixels=max_pixels, copies=True)
        self.skipped: list[tuple[str, FastspadeError]] = []

    def __iter__(self) -> Iterator[Entry]:
        self.skipped = []
        opener = self._opener()
        items = self._images if isinstance(self._images, Iterable) else map(self._images.__getitem__, range(len(self._images)))
        for step, item in enumerate(items):
            opened = opener.open(f"{self._argument}: item {step}", item)
            self.skipped += opened.left_out + opened.bad
            yield from opened.entries
        self.skipped += opener.frames_left()

    def total(self) -> int | None:
        """The pictures that a DataLoader will yield; None for what cannot be asked."""
        loader = self._images
        if not isinstance(loader, DataLoader) or loader.batch_size is None:
            return None  # other iterables and custom batch samplers do not tell how large their batches are
        try:
            if loader.drop_last:
                return len(loader) * loader.batch_size
            return len(loader.sampler)  # type: ignore[arg-type]  # where it has no length, that is the TypeError below
        except TypeError:
            return None


def unmasked(label: str, images: Any) -> np.ndarray:
    """As an array. Raises InputError where pixels of it are masked, which an array would show as if they were not."""
    if np.ma.is_masked(images):
        raise InputError(f"{label} must not have masked pixels; fill them, and give roi to leave pixels out")
    return np.asarray(images)


def hint(item: object) -> str:
    """How to give what is none of these."""
    if isinstance(item, (bytes, bytearray, memoryview)):
        return "; open encoded bytes with PIL.Image.open(io.BytesIO(data))"
    if hasattr(item, "read"):
        return "; open a file object with PIL.Image.open(file)"
    return "; give its values()" if isinstance(item, Mapping) else ""


def yields_items(images: Any) -> bool:
    """Is it a DataLoader, a dataset, a generator or another iterable? A mapping is none: it would yield its keys, nor a file object:
    its lines."""
    if isinstance(images, (bytes, bytearray, memoryview, Mapping)) or hasattr(images, "read"):
        return False
    return isinstance(images, Iterable) or (hasattr(images, "__getitem__") and hasattr(images, "__len__"))


# -- items that are sequences


def pictures_in(label: str, item: Any) -> list[Any]:
    """The pictures of an item: itself, those of a list of pictures, or the first of a sample (picture, label...).

    Raises DtypeError for what is none of these, InputError where a picture and its mask cannot be told from two pictures.
    """
    if hasattr(item, "__array__") and not isinstance(item, (np.ndarray, torch.Tensor)):
        item = unmasked(label, item)
    if isinstance(item, np.ma.MaskedArray):
        item = unmasked(label, item)
    if isinstance(item, np.ndarray) and item.dtype.kind in "OUS":
        item = listed(item)
    if not isinstance(item, (list, tuple)):
        if not _is_picture(item) and not isinstance(item, (np.ndarray, torch.Tensor)):  # whose shape and type are checked later
            raise DtypeError(
                f"{label} must be a path, PIL image, array or tensor, a sequence of those or (picture, label...), "
                f"got {type(item).__name__}{hint(item)}"
            )
        return [item]
    if not item:
        raise InputError(f"{label} must hold at least one image, got an empty {type(item).__name__}")
    if isinstance(item[0], (list, tuple)):
        others = [one for part in item[1:] for one in (part if isinstance(part, (list, tuple)) else ())]
        samples = any(_is_picture(one) and not (_is_path(one) and _holds_pixels(item[0])) for one in others)
        return [one for part in (item if samples else item[:1]) for one in pictures_in(label, part)]
    if not _is_picture(item[0]):
        pictures_in(f"{label}[0]", item[0])
    if len(item) == 1 or not all(_is_picture(one) and _is_path(one) == _is_path(item[0]) for one in item):
        return [item[0]]
    kinds = [_layout(one) for one in item]
    if kinds[0][0] and kinds[0] not in kinds[1:]:
        return [item[0]]  # a batch and its masks
    if kinds[0][0] or len(set(kinds)) > 1:
        raise InputError(
            f"{label} holds {len(item)} pictures of {', '.join(f'{channels} channels' for _, channels in kinds)}: a picture and "
            "its mask, or several pictures? Yield one tensor or array, or a tuple (picture, label)"
        )
    return list(item)


def _is_path(item: object) -> bool:
    return isinstance(item, (str, os.PathLike))


def _holds_pixels(sample: Sequence[Any]) -> bool:
    return any(_is_picture(one) and not _is_path(one) for one in sample)


def _is_picture(item: Any) -> bool:
    """By its type and number of dimensions alone."""
    if isinstance(item, torch.Tensor):
        return item.ndim >= 3 and (item.dtype in (torch.uint8, torch.uint16) or item.dtype.is_floating_point)
    if isinstance(item, np.ndarray):
        return item.ndim >= 2
    return isinstance(item, (str, os.PathLike, Image.Image, Entry))


def _layout(item: Any) -> tuple[bool, int]:
    """Is it a stack, and of how many channels? Paths and entries have none."""
    if isinstance(item, torch.Tensor):
        return item.ndim > 3, item.shape[-3]
    if isinstance(item, np.ndarray):
        return item.ndim > 3, 1 if item.ndim == 2 else item.shape[-1]
    return False, len(item.getbands()) if isinstance(item, Image.Image) else 0


# -- stacks


def tensor_stack(label: str, tensor: torch.Tensor) -> torch.Tensor:
    """(C, H, W) or (N, C, H, W) -> (N, C, H, W), checked."""
    if tensor.ndim not in (3, 4) or 0 in tensor.shape:
        raise InputError(
            f"{label} must have shape (C, H, W) or (N, C, H, W), C 1, 3 or 4 and none of them 0; got {tuple(tensor.shape)}"
        )
    stack = tensor if tensor.ndim == 4 else tensor[None]
    check_tensor(label, stack[0])
    return stack


def array_stack(label: str, array: np.ndarray) -> np.ndarray:
    """One picture or a stack -> (N, H, W) or (N, H, W, C), checked."""
    stack = array if array.ndim == 4 else array[None]
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[2] >= NARROWEST:
        if array.shape[0] == 3:
            raise InputError(
                f"{label} has shape {array.shape}: three gray pictures, or one with the channels first? For the former give "
                "x[..., None], for the latter x.transpose(1, 2, 0)"
            )
        stack = array
    if len(stack) == 0:
        raise InputError(f"{label} must hold at least one image, got shape {array.shape}")
    check_array(label, stack[0])
    return stack


# -- PIL images

_PIL_LOCK = threading.Lock()  # loading changes a lazily opened Image, and one may be listed twice


def _new_lock() -> None:
    global _PIL_LOCK
    _PIL_LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):  # another thread may hold it when a DataLoader forks its workers
    os.register_at_fork(after_in_child=_new_lock)


def _load_pil(image: Image.Image, name: str, max_pixels: int | None) -> Decoded:
    try:
        with _PIL_LOCK:
            return standardise(read_lazily(image, name, max_pixels))
    except ImageReadError:
        raise
    except Exception as error:  # a lazily opened file decodes here
        raise ImageReadError(f"cannot read image {name}: {type(error).__name__}: {error}", name) from error


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes with a file: its size and when it was last written. None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _sides(shape: Sequence[int]) -> tuple[int, int]:
    """(height, width), the first two of a shape."""
    return shape[0], shape[1]
