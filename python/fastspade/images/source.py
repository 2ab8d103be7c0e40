"""Iterating over pictures: decoded in threads, resized, cropped and put together in batches."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from typing import cast

import torch

from fastspade.errors import DeviceError, FastspadeError, ImageReadError, InputError, LeftOutError, MissingFileError
from fastspade.images.entry import Entry, ImageBatch
from fastspade.images.further import Further, first_alone
from fastspade.images.geometry import Fitting, stretch
from fastspade.images.items import Stream
from fastspade.images.prepared import Preparation, Prepared
from fastspade.images.region import Masks
from fastspade.images.views import Tiling, Turn

MEASURED = 256  # pictures, spread over all, whose sizes settle the one that they share; of a loader the first LOOKED_AT
LOOKED_AT = 16
MUCH_UNSEEN = 0.15  # of a picture's area outside the crop
MUCH_STRETCHED = 1.25  # one side more than the other


class ImageSource:
    """Iterates ImageBatch in the order given. Made by open_source; can be iterated again unless built on an iterator.

    skipped: (name, error) of what skip_bad left out, and of what lies in the folders and is no image (LeftOutError); complete
        once an iteration has ended.
    total: the number of pictures, bad ones included, or None where it cannot be known (len() then raises TypeError).
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        total: int | None,
        left_out: list[tuple[str, FastspadeError]],
        missing: list[tuple[str, FastspadeError]],
        *,
        resize: int | tuple[int, int] | str | None,
        crop: int | tuple[int, int] | None,
        fitting: Fitting,
        tiling: Tiling | None = None,
        turns: Sequence[Turn] = (),
        masks: Masks | None = None,
        batch_size: int,
        skip_bad: bool,
        num_workers: int,
        max_pixels: int | None,
        argument: str,
    ) -> None:
        self._entries = entries
        self._left_out, self._missing = left_out, missing
        self._resize, self._crop, self._fitting = resize, crop, fitting
        self._tiling = tiling
        self._settled = partial(Preparation, crop=crop, tiling=tiling, turns=turns, masks=masks, max_pixels=max_pixels)
        self._started: Iterator[Entry] | None = None  # a loader whose first pictures were looked at, in front of the others
        self._batch_size, self._skip_bad, self._num_workers = batch_size, skip_bad, num_workers
        self._argument = argument
        self.total = total
        self.skipped: list[tuple[str, FastspadeError]] = left_out + missing
        self._further: list[tuple[str, LeftOutError]] = []  # of files whose first picture was read

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
        if start > 0:
            part._left_out, part._missing = [], []
        part.total, part.skipped = len(part._entries), part._left_out + part._missing
        return part

    def settle(self) -> int | tuple[int, int] | None:
        """`resize` as it is applied: where all pictures share one size, which (height, width) that is.

        They do where resize is "whole", or a number without a crop; it then follows from the pictures' sizes. Tiles are cut
        from pictures of any size, and so "whole" leaves them theirs.
        """
        if self._tiling is not None:
            self._resize = None if self._resize == "whole" else self._resize
        elif self._resize == "whole" or (isinstance(self._resize, int) and self._crop is None):
            shorter = self._resize if isinstance(self._resize, int) else None
            self._resize = self._fitting.shared(self._sizes(), shorter)
        assert not isinstance(self._resize, str)
        return self._resize

    def _sizes(self) -> list[tuple[int, int]]:
        """Of some pictures; those that cannot be read are left to the iteration, which reports them."""
        found = []
        for entry in self._some(MEASURED):
            try:
                found.append(entry.measured())
            except FastspadeError:
                pass
        return found or [(1, 1)]

    def samples(self) -> list[torch.Tensor]:
        """Some pictures as the network is given them, (3, H, W) each; those that cannot be read are left to the iteration."""
        found = []
        for entry in self._some(LOOKED_AT):
            try:
                found.append(self._prepare(entry)[0].pixels)
            except FastspadeError:
                pass
        if not found:
            raise ImageReadError(f"{self._argument}: none of the images looked at could be read", self._argument)
        return found

    def first_views(self) -> list[torch.Tensor]:
        """All views of the first picture that can be read, its tiles and turned copies, as the network is given them, (3, H, W) each;
        none where none can be read."""
        for entry in self._some(LOOKED_AT):
            try:
                return [view.pixels for view in self._prepare(entry)]
            except FastspadeError:
                pass
        return []

    def _prepare(self, entry: Entry) -> list[Prepared]:
        return self._settled(self.settle())(entry)

    def _some(self, most: int) -> list[Entry]:
        """Up to `most` pictures, spread over all; of a loader the first, which stay in front of the others."""
        if isinstance(self._entries, list):
            count = len(self._entries)
            return [self._entries[i * count // min(count, most)] for i in range(min(count, most))]
        entries = iter(self._entries) if self._started is None else self._started
        chosen = list(islice(entries, min(most, LOOKED_AT)))
        self._started = chain(chosen, entries)
        return chosen

    def __iter__(self) -> Iterator[ImageBatch]:
        """Batches of up to batch_size pictures.

        Raises ImageReadError for the first unreadable file unless skip_bad, and always if every file was unreadable;
        InputError where pixel values or, with crop=None, sizes do not fit together; DeviceError where tensors of one
        list lie on different devices.
        """
        self.settle()
        self.skipped = self._left_out + self._missing
        self._further = []
        batch: list[Prepared] = []
        first: Prepared | None = None
        told: set[str] = set()
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
            if len(batch) == self._batch_size or (prepared.last and self._tiling is not None):
                self._tell(batch, told)
                yield _collate(batch)
                batch = []
        if batch:
            self._tell(batch, told)
            yield _collate(batch)
        if isinstance(self._entries, Stream):
            self.skipped += self._entries.skipped
        self.skipped += self._further
        Further.of(self.skipped).warn(self._argument)
        if first is None:
            bad = [one for one in self.skipped if not isinstance(one[1], LeftOutError)]
            if bad:
                raise ImageReadError(f"none of the {len(bad)} images could be read; the first: {bad[0][1]}", bad[0][0])
            raise InputError(f"{self._argument} must hold at least one image, but the loader yielded none")

    def _prepared(self) -> Iterator[Prepared]:
        """Decoded pictures' views in order. Only prepared crops wait in the window; whole originals live in workers alone.

        Of a stream no picture is taken before it is needed to complete a batch, so that a camera's first result does not wait
        for frames of the second.
        """
        entries, self._started = self._started or self._entries, None
        if self._num_workers == 0:
            for entry in entries:
                yield from self._settle(entry.name, partial(self._prepare, entry))
            return
        window: deque[tuple[str, Future[list[Prepared]]]] = deque()
        pool = ThreadPoolExecutor(self._num_workers, thread_name_prefix="fastspade-decode")
        done = 0
        try:
            for entry in entries:
                window.append((entry.name, pool.submit(self._prepare, entry)))
                while window and len(window) >= self._read_ahead(done):
                    name, future = window.popleft()
                    for prepared in self._settle(name, future.result):
                        done += 1
                        yield prepared
            while window:
                name, future = window.popleft()
                yield from self._settle(name, future.result)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read_ahead(self, done: int) -> int:
        """Pictures that may wait in the window, `done` views being through it."""
        if self._tiling is not None:  # a picture has many tiles
            return 1 if isinstance(self._entries, Stream) else self._num_workers
        return (
            self._batch_size - done % self._batch_size
            if isinstance(self._entries, Stream)
            else self._batch_size + self._num_workers
        )

    def _tell(self, batch: Sequence[Prepared], told: set[str]) -> None:
        """Warns, once per iteration each, of pictures of which much is not seen, and of such that are much distorted."""
        if self._tiling is not None and self._crop is None:
            return
        unseen = sum(1 - one.crop.height * one.crop.width / (one.size[0] * one.size[1]) for one in batch) / len(batch)
        if unseen > MUCH_UNSEEN and "unseen" not in told:
            told.add("unseen")
            warnings.warn(
                f"{self._argument}: the crop leaves {unseen:.0%} of the pictures out, where no defect is found; "
                "resize='whole' with crop=None looks at all of them", stacklevel=2,
            )  # fmt: skip
        resize = self.settle()
        if isinstance(resize, tuple) and "stretched" not in told:
            worst = max(batch, key=lambda one: stretch(one.size, resize))
            if stretch(worst.size, resize) > MUCH_STRETCHED:
                told.add("stretched")
                warnings.warn(
                    f"{self._argument}: {worst.name} has {worst.size[0]}x{worst.size[1]} pixels, of another aspect ratio than "
                    f"the {resize[0]}x{resize[1]} that all pictures of a model are resized to; it and its like are distorted",
                    stacklevel=2,
                )

    def _settle(self, name: str, result: Callable[[], list[Prepared]]) -> Iterator[Prepared]:
        try:
            prepared = result()
        except (ImageReadError, MissingFileError) as error:
            if not self._skip_bad:
                raise
            self.skipped.append((name, error))
        else:
            if prepared[0].further:
                self._further.append(first_alone(name, prepared[0].further))
            yield from prepared


def _pixels_text(prepared: Prepared) -> str:
    return f"{prepared.pixels.shape[1]}x{prepared.pixels.shape[2]}"


def _collate(batch: list[Prepared]) -> ImageBatch:
    return ImageBatch(
        torch.stack([one.pixels for one in batch]),
        [one.name for one in batch],
        [one.size for one in batch],
        [one.crop for one in batch],
        [one.original for one in batch],
        [one.tile for one in batch],
        sum(one.last for one in batch),
        None if batch[0].inside is None else torch.stack([cast(torch.Tensor, one.inside) for one in batch]),
    )
