"""Image sources: paths, folders, globs, PIL images, arrays, tensors and loaders -> prepared batches."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fastspade.errors import DtypeError, FastspadeError, ImageReadError, InputError, MissingFileError
from fastspade.images.decode import Decoded, check_array, check_tensor, decode_array, decode_tensor, read_file, standardise
from fastspade.images.entry import Entry, Images
from fastspade.images.paths import find_files
from fastspade.images.safe_file import DEFAULT_MAX_PIXELS, check_size
from fastspade.images.source import ImageSource


def open_source(
    images: Images,
    *,
    resize: int | None = 256,
    crop: int | None = 224,
    batch_size: int = 16,
    skip_bad: bool = False,
    num_workers: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    argument: str = "images",
) -> ImageSource:
    """Open pictures of any supported kind as an iterable of ImageBatch; nothing is decoded before iteration.

    images: a file, a folder (searched in depth, sorted, hidden files and other suffixes left out), a glob pattern
        ("**" goes in depth); a PIL image; a numpy array H x W x 3 uint8 (also gray, RGBA, uint16, float in [0, 1], or
        a stack N x H x W x 3); a tensor (3, H, W) or (N, 3, H, W), uint8 or float in [0, 1]; a list that mixes any of
        those; or a DataLoader (or other iterable) that yields tensors or (tensor, label...) tuples.
    resize, crop: the shorter side goes to ``resize`` keeping the aspect ratio, then the central ``crop`` x ``crop`` is
        cut (SPADE, arXiv 2005.02357: 256 and 224). This holds for tensors and loaders too; None leaves a step out.
    batch_size: pictures a batch. num_workers: decoding threads; 0 decodes in the calling thread, None uses 2.
    skip_bad: leave out missing and unreadable files and list them in ImageSource.skipped, instead of raising.
    max_pixels: a file whose header says more pixels counts as unreadable, before any of it is decoded; None sets no
        limit. A picture at the default limit takes 0.7 GB while it is decoded, in each of the decoding threads.
    argument: what error messages call ``images``.

    Raises, before anything is decoded: MissingFileError (path, empty folder or pattern without a match),
    ImageReadError (a named file is not of an image type), DtypeError, InputError.
    """
    _check_int("batch_size", batch_size, 1)
    _check_int("resize", resize, 1, optional=True)
    _check_int("crop", crop, 1, optional=True)
    _check_int("num_workers", num_workers, 0, optional=True)
    _check_int("max_pixels", max_pixels, 1, optional=True)
    if resize is not None and crop is not None and crop > resize:
        raise InputError(f"crop must not be larger than resize, got crop {crop} and resize {resize}")
    options: dict[str, Any] = dict(
        resize=resize,
        crop=crop,
        batch_size=batch_size,
        skip_bad=skip_bad,
        num_workers=2 if num_workers is None else num_workers,
        max_pixels=max_pixels,
        argument=argument,
    )
    if not isinstance(images, (str, os.PathLike, Image.Image, np.ndarray, torch.Tensor, list, tuple)):
        if not isinstance(images, Iterable):
            raise DtypeError(
                f"{argument} must be a path, folder, glob, PIL image, array, tensor, a list of those, or a DataLoader; "
                f"got {type(images).__name__}"
            )
        return ImageSource(_LoaderEntries(images, argument), _loader_total(images), [], **options)

    entries: list[Entry] = []
    missing: list[tuple[str, FastspadeError]] = []
    is_list = isinstance(images, (list, tuple))
    items: Sequence[Any] = images if isinstance(images, (list, tuple)) else [images]
    for position, item in enumerate(items):
        label = f"{argument}[{position}]" if is_list else argument
        try:
            entries.extend(_item_entries(label, item, len(entries), max_pixels))
        except (MissingFileError, ImageReadError) as error:
            if not skip_bad:
                raise
            missing.append((os.fspath(item), error))
    if not entries:
        if missing:
            raise missing[0][1]
        raise InputError(f"{argument} must hold at least one image, got an empty {type(images).__name__}")
    return ImageSource(entries, len(entries), missing, **options)


def _check_int(name: str, value: object, least: int, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DtypeError(f"{name} must be an integer{' or None' if optional else ''}, got {type(value).__name__}")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")


def _item_entries(label: str, item: object, start: int, max_pixels: int | None) -> list[Entry]:
    """The pictures of one item; ``start`` numbers those in memory."""
    if isinstance(item, Entry):
        return [item]
    if isinstance(item, (str, os.PathLike)):
        found = find_files(label, os.fspath(item))
        return [Entry(str(path), partial(read_file, path, max_pixels)) for path in found]
    if isinstance(item, Image.Image):
        if 0 in item.size:
            raise InputError(f"{label} must not be empty, got a PIL image of {item.size[1]}x{item.size[0]} pixels")
        name = getattr(item, "filename", "") or _memory_name(start)
        return [Entry(name, lambda: _load_pil(item, name, max_pixels))]
    if isinstance(item, np.ndarray):
        stack = item if item.ndim == 4 else item[None]
        if len(stack) == 0:
            raise InputError(f"{label} must hold at least one image, got shape {item.shape}")
        check_array(label, stack[0])
        return [Entry(_memory_name(start + i), partial(decode_array, one)) for i, one in enumerate(stack)]
    if isinstance(item, torch.Tensor):
        return _tensor_entries(label, item, start)
    raise DtypeError(f"{label} must be a path, PIL image, array or tensor, got {type(item).__name__}")


def _tensor_entries(label: str, tensor: torch.Tensor, start: int) -> list[Entry]:
    if tensor.ndim not in (3, 4) or 0 in tensor.shape:
        raise InputError(f"{label} must have shape (3, H, W) or (N, 3, H, W), none of them 0; got {tuple(tensor.shape)}")
    stack = tensor if tensor.ndim == 4 else tensor[None]
    check_tensor(label, stack[0])
    return [Entry(_memory_name(start + i), partial(decode_tensor, one)) for i, one in enumerate(stack)]


def _memory_name(number: int) -> str:
    return f"image_{number:05d}"

_PIL_LOCK = threading.Lock()  # loading changes a lazily opened Image, and one may be listed twice


def _new_lock() -> None:
    global _PIL_LOCK
    _PIL_LOCK = threading.Lock()

if hasattr(os, "register_at_fork"):  # another thread may hold it when a DataLoader forks its workers
    os.register_at_fork(after_in_child=_new_lock)


def _load_pil(image: Image.Image, name: str, max_pixels: int | None) -> Decoded:
    try:
        with _PIL_LOCK:
            check_size(image, name, max_pixels)
            return standardise(image)
    except ImageReadError:
        raise
    except Exception as error:  # a lazily opened file decodes here
        raise ImageReadError(f"cannot read image {name}: {type(error).__name__}: {error}", name) from error


class _LoaderEntries:
    """The pictures of a DataLoader or another iterable of tensors, taken as they come."""

    def __init__(self, loader: Iterable[Any], argument: str) -> None:
        self._loader, self._argument = loader, argument

    def __iter__(self) -> Iterator[Entry]:
        count = 0
        for step, item in enumerate(self._loader):
            tensor = item[0] if isinstance(item, (list, tuple)) and item else item
            if not isinstance(tensor, torch.Tensor):
                raise DtypeError(
                    f"{self._argument}: a loader must yield tensors or (tensor, label) tuples, "
                    f"but item {step} is {type(item).__name__}"
                    + (f" of {type(tensor).__name__}" if tensor is not item else "")
                )
            for entry in _tensor_entries(f"{self._argument}: item {step}", tensor, count):
                yield entry
                count += 1


def _loader_total(loader: Iterable[Any]) -> int | None:
    """Pictures a DataLoader will yield; None for what cannot be asked."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return None  # other iterables and custom batch samplers do not tell how large their batches are
    try:
        if loader.drop_last:
            return len(loader) * loader.batch_size
        return len(loader.sampler)  # type: ignore[arg-type]  # where it has no length, that is the TypeError below
    except TypeError:
        return None
