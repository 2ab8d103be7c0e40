"""The images of rank 0, sent to all ranks batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

from PIL import Image

from fastspade.distributed.ranks import Ranks
from fastspade.errors import FastspadeError, InputError
from fastspade.images import ImageBatch, ImageSource


class SharedSource:
    """Iterates what `open_images` opens on rank 0, on every rank; an error there is raised on all of them.

    Has what Spade asks of an ImageSource. Pictures (ImageBatch.originals) stay on rank 0.
    """

    def __init__(self, ranks: Ranks, open_images: Callable[[], ImageSource]) -> None:
        self._ranks = ranks
        self._source = ranks.together("opening the images", lambda: open_images() if ranks.rank == 0 else None)
        self.total = ranks.broadcast("the number of images", None if self._source is None else self._source.total, 0)
        self.skipped: list[tuple[str, FastspadeError]] = []

    def __len__(self) -> int:
        if self.total is None:
            raise TypeError("the number of images from this loader or iterator is not known beforehand")
        return self.total

    def __iter__(self) -> Iterator[ImageBatch]:
        batches = None if self._source is None else iter(self._source)
        while True:
            batch = self._ranks.together("reading images", lambda: None if batches is None else next(batches, None))
            told = (
                None
                if batch is None
                else (batch.pixels.shape, batch.names, batch.sizes, batch.crops, batch.tiles, batch.complete, batch.inside)
            )
            told = self._ranks.broadcast("an image batch", told, 0)
            if told is None:
                break
            shape, names, sizes, crops, tiles, complete, inside = told
            pixels = self._ranks.broadcast_tensors("pixels", None if batch is None else [batch.pixels], [shape], 0)[0]
            originals: list[Callable[[], Image.Image]] = [_elsewhere] * len(names) if batch is None else batch.originals
            yield ImageBatch(pixels, names, sizes, crops, originals, tiles, complete, inside)
        self.skipped = self._ranks.broadcast("skipped images", None if self._source is None else self._source.skipped, 0)


def _elsewhere() -> NoReturn:
    raise InputError("pictures are on rank 0, which read the images; draw overlays there, or fit with keep_crop=True")
