"""Iterating over pictures: decoded in threads, resized, cropped and put together in batches."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image

from fastspade.errors import DeviceError, FastspadeError, ImageReadError, InputError, MissingFileError
from fastspade.images.decode import Decoded, prepare, to_pillow
from fastspade.images.entry import Entry, ImageBatch
from fastspade.images.geometry import CropBox, centre_crop


@dataclass
class _Prepared:
    name: str
    pixels: torch.Tensor
    size: tuple[int, int]
    crop: CropBox
    original: Callable[[], Image.Image]


class ImageSource:
    """Iterates ImageBatch in the order given. Made by open_source; can be iterated again unless built on an iterator.

    skipped: (name, error) of what skip_bad left out; complete once an iteration has ended.
    total: the number of pictures, bad ones included, or None where it cannot be known (len() then raises TypeError).
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        total: int | None,
        missing: list[tuple[str, FastspadeError]],
        *,
        resize: int | None,
        crop: int | None,
        batch_size: int,
        skip_bad: bool,
        num_workers: int,
        max_pixels: int | None,
        argument: str,
    ) -> None:
        self._entries = entries
        self._missing = missing
        self._resize, self._crop = resize, crop
        self._batch_size, self._skip_bad, self._num_workers = batch_size, skip_bad, num_workers
        self._max_pixels, self._argument = max_pixels, argument
        self.total = total
        self.skipped: list[tuple[str, FastspadeError]] = list(missing)

    def __len__(self) -> int:
        if self.total is None:
            raise TypeError("the number of images from this loader or iterator is not known beforehand")
        return self.total

    def part(self, start: int, stop: int) -> ImageSource:
        """The pictures from `start` to `stop` (not included), as a source of their own; what is missing stays with the first.

        Raises InputError for a loader, whose pictures cannot be taken out of turn.
        """
        if not isinstance(self._entries, list):
            raise InputError(f"{self._argument} must be files, pictures, arrays or tensors to be split, got a loader")
        part = copy.copy(self)
        part._entries = self._entries[start:stop]
        part._missing = self._missing if start == 0 else []
        part.total, part.skipped = len(part._entries), list(part._missing)
        return part

    def __iter__(self) -> Iterator[ImageBatch]:
        """Batches of up to batch_size pictures.

        Raises ImageReadError for the first unreadable file unless skip_bad, and always if every file was unreadable;
        InputError where pixel values or, with crop=None, sizes do not fit together; DeviceError where tensors of one
        list lie on different devices.
        """
        self.skipped = list(self._missing)
        batch: list[_Prepared] = []
        first: _Prepared | None = None
        for prepared in self._prepared():
            first = first or prepared
            if prepared.pixels.device != first.pixels.device:
                raise DeviceError(
                    f"{self._argument} must lie on one device: {first.name} is on {first.pixels.device}, "
                    f"{prepared.name} on {prepared.pixels.device}"
                )
            if prepared.pixels.shape != first.pixels.shape:
                raise InputError(
                    f"{self._argument} must have one size after resizing: {first.name} has {_pixels_text(first)}, "
                    f"{prepared.name} has {_pixels_text(prepared)}; set crop"
                )
            batch.append(prepared)
            if len(batch) == self._batch_size:
                yield _collate(batch)
                batch = []
        if batch:
            yield _collate(batch)
        if first is None:
            if self.skipped:
                name, error = self.skipped[0]
                raise ImageReadError(f"none of the {len(self.skipped)} images could be read; the first: {error}", name)
            raise InputError(f"{self._argument} must hold at least one image, but the loader yielded none")

    def _prepared(self) -> Iterator[_Prepared]:
        """Decoded pictures in order. Only prepared crops wait in the window; whole originals live in workers alone."""
        if self._num_workers == 0:
            for entry in self._entries:
                yield from self._settle(entry.name, partial(self._prepare, entry))
            return
        window: deque[tuple[str, Future[_Prepared]]] = deque()
        limit = self._batch_size + self._num_workers
        pool = ThreadPoolExecutor(self._num_workers, thread_name_prefix="fastspade-decode")
        try:
            for entry in self._entries:
                window.append((entry.name, pool.submit(self._prepare, entry)))
                if len(window) >= limit:
                    name, future = window.popleft()
                    yield from self._settle(name, future.result)
            while window:
                name, future = window.popleft()
                yield from self._settle(name, future.result)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, entry: Entry) -> _Prepared:
        try:
            decoded = entry.load()
            self._check_output(decoded)
            return _Prepared(entry.name, *prepare(decoded, self._resize, self._crop), lambda: to_pillow(entry.load()))
        except InputError as error:
            raise InputError(f"{entry.name}: {error}") from error

    def _check_output(self, decoded: Decoded) -> None:
        """Without a crop a thin strip grows with the square of its length: 1 x 20,000 pixels become 256 x 5,120,000."""
        height, width = decoded.shape[1:] if isinstance(decoded, torch.Tensor) else decoded.size[::-1]
        _, out = centre_crop(height, width, self._resize, self._crop)
        if self._max_pixels is not None and out[0] * out[1] > max(self._max_pixels, height * width):
            raise InputError(
                f"{height}x{width} pixels become {out[0]}x{out[1]} after resizing, more than max_pixels "
                f"({self._max_pixels}); set crop"
            )

    def _settle(self, name: str, result: Callable[[], _Prepared]) -> Iterator[_Prepared]:
        try:
            prepared = result()
        except (ImageReadError, MissingFileError) as error:
            if not self._skip_bad:
                raise
            self.skipped.append((name, error))
        else:
            yield prepared


def _pixels_text(prepared: _Prepared) -> str:
    return f"{prepared.pixels.shape[1]}x{prepared.pixels.shape[2]}"


def _collate(batch: list[_Prepared]) -> ImageBatch:
    return ImageBatch(
        torch.stack([one.pixels for one in batch]),
        [one.name for one in batch],
        [one.size for one in batch],
        [one.crop for one in batch],
        [one.original for one in batch],
    )
