"""One picture -> what a backbone is given of it: resized and cropped, in tiles, turned, with its region of interest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from fastspade.errors import InputError
from fastspade.images.decode import Decoded, prepare, size_of, to_show
from fastspade.images.entry import Entry
from fastspade.images.further import further_pictures
from fastspade.images.geometry import CropBox, centre_crop
from fastspade.images.region import Masks, cut_mask
from fastspade.images.views import Tile, Tiling, Turn, ViewName, turned, turned_pixels
from fastspade.torch_defaults import torch_defaults


@dataclass
class Prepared:
    """One view. last: of its picture. further: pictures of its file that are not read, told once a file."""

    name: str
    pixels: torch.Tensor
    size: tuple[int, int]
    crop: CropBox
    original: Callable[[], Image.Image]
    tile: Tile | None = None
    inside: torch.Tensor | None = None
    last: bool = True
    further: int = 0


@dataclass(frozen=True)
class Preparation:
    """How pictures are prepared; the values are those that `fastspade.images.open_source` describes, resize as it is applied."""

    resize: int | tuple[int, int] | None
    crop: int | tuple[int, int] | None
    tiling: Tiling | None
    turns: Sequence[Turn]
    masks: Masks | None
    max_pixels: int | None

    def __call__(self, entry: Entry) -> list[Prepared]:
        """The views of one picture. Raises as its loader does, and InputError, which names it."""
        try:
            stamp = entry.stamp and entry.stamp()
            with further_pictures() as further:
                decoded = entry.load()
            self._check_output(decoded)
            with torch_defaults():
                found = self._views(ViewName(entry.name), decoded, _original(entry, decoded, stamp))
                for turn in self.turns:
                    original = partial(_turned_original, entry, turn)
                    found += self._views(ViewName(entry.name, turn), turned(decoded, turn), original)
            for one in found[:-1]:
                one.last = False
            found[0].further = sum(further)
            return found
        except InputError as error:
            raise InputError(f"{entry.name}: {error}") from error

    def _views(self, name: ViewName, decoded: Decoded, original: Callable[[], Image.Image]) -> list[Prepared]:
        pixels, size, box = prepare(decoded, self.resize, self.crop)
        if self.tiling is None:
            one = Prepared(str(name), pixels, size, box, original)
            one.inside = self._inside(name, one)
            if one.inside is not None and not bool(one.inside.any()):
                raise InputError("roi leaves nothing of this image")
            return [one]
        height, width = self.tiling.size
        down, across = box.height / pixels.shape[1], box.width / pixels.shape[2]
        found = [
            Prepared(
                str(replace(name, tile=(tile.row, tile.column))),
                pixels[:, tile.top : tile.top + height, tile.left : tile.left + width],
                size,
                CropBox(box.top + tile.top * down, box.left + tile.left * across, height * down, width * across),
                original,
                tile,
            )
            for tile in self.tiling.tiles(pixels.shape[1], pixels.shape[2])
        ]
        if self.masks is not None:
            for one in found:
                one.inside = self._inside(name, one)
            found = [one for one in found if one.inside is not None and bool(one.inside.any())]
            if not found:
                raise InputError("roi leaves nothing of this image")
        return found

    def _inside(self, name: ViewName, view: Prepared) -> torch.Tensor | None:
        """(h, w) bool: which of a view's pixels count."""
        if self.masks is None:
            return None
        mask = self.masks(name.picture)
        if name.turn is not None:
            shown = Image.fromarray(mask).resize((view.size[1], view.size[0]), Image.Resampling.NEAREST)
            mask = turned_pixels(torch.from_numpy(np.array(shown, dtype=np.float32))[None], name.turn)[0].numpy() > 0.5
        return torch.from_numpy(cut_mask(mask, view.crop, view.size, (view.pixels.shape[1], view.pixels.shape[2])))

    def _check_output(self, decoded: Decoded) -> None:
        """Without a crop a thin strip grows with the square of its length: 1 x 20,000 pixels become 256 x 5,120,000."""
        height, width = size_of(decoded)
        _, out = centre_crop(height, width, self.resize, self.crop)
        if self.max_pixels is not None and out[0] * out[1] > max(self.max_pixels, height * width):
            raise InputError(
                f"{height}x{width} pixels become {out[0]}x{out[1]} after resizing, more than max_pixels "
                f"({self.max_pixels}); set crop"
            )


def _original(entry: Entry, decoded: Decoded, stamp: object) -> Callable[[], Image.Image]:
    """Shows the picture that was scored: a file is decoded again; of what is in memory the caller may have changed the pixels."""
    return partial(to_show, decoded) if entry.in_memory else partial(_decoded_again, entry, stamp)


def _decoded_again(entry: Entry, stamp: object) -> Image.Image:
    if entry.stamp is not None and entry.stamp() != stamp:
        warnings.warn(f"{entry.name} has been written since it was scored, so that the picture may be another", stacklevel=3)
    return to_show(entry.load())


def _turned_original(entry: Entry, turn: Turn) -> Image.Image:
    return to_show(turned(entry.load(), turn))
