"""Images -> features, bit-identical for an image whichever images share its batch.

A network's output may differ in its last bit with the shape of the batch. So the network always sees batches of one shape:
single images on the CPU (which takes as long as larger batches), batches filled up to `batch_size` on CUDA. An image's
features then depend neither on its neighbours nor on its place among them, and a bank that grew image by image equals one
fitted at once. What remains is the network's own: another device, thread count, `batch_size` (on CUDA), or version of torch
and its libraries may give other last bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from fastspade.backbones import Backbone
from fastspade.backbones.border import Network, continued, cut
from fastspade.backbones.foreground import Foreground
from fastspade.errors import FastspadeError
from fastspade.files.progress import progress_bar, tell
from fastspade.images import DEFAULT_MAX_PIXELS, ImageSource, open_source
from fastspade.images.geometry import centre_crop
from fastspade.images.region import AUTO, cut_mask, masks_of
from fastspade.images.views import Tiling, Turn
from fastspade.torch_defaults import torch_defaults

if TYPE_CHECKING:
    from fastspade.images.entry import Images


@dataclass(frozen=True)
class Features:
    """Of n images: embeddings (n, E) float32, pyramid of (n, C_l, H_l, W_l), finest first, and n names."""

    embeddings: torch.Tensor
    pyramid: list[torch.Tensor]
    names: list[str]


@dataclass(frozen=True)
class Extractor:
    """A backbone with all options that its features depend on, by the names that Spade gives them."""

    backbone: Backbone
    resize: int | tuple[int, int] | str | None
    crop: int | tuple[int, int] | None
    local_average: bool = False
    reflect_border: bool = False
    tile: tuple[int, int] | None = None
    overlap: float = 0.25
    augment: tuple[Turn, ...] = ()
    roi: Any = None  # as check_roi keeps it
    foreground: Foreground | None = None  # of roi "auto", once it is known
    batch_size: int = 8
    num_workers: int | None = None
    max_pixels: int | None = DEFAULT_MAX_PIXELS
    progress: bool = False

    def open(self, images: Images, *, skip_bad: bool = False, argument: str = "images", augmented: bool = False) -> ImageSource:
        """Images of any kind that `fastspade.images.open_source` takes, as batches for the backbone; augmented: with turned copies."""
        return open_source(
            images,
            resize=self.resize,
            crop=self.crop,
            fitting=self.backbone.fitting,
            tiling=None if self.tile is None else Tiling(self.tile, self.overlap),
            turns=self.augment if augmented else (),
            masks=masks_of(self.roi),
            batch_size=self.batch_size,
            skip_bad=skip_bad,
            num_workers=self.num_workers,
            max_pixels=self.max_pixels,
            argument=argument,
        )

    @torch_defaults()
    def __call__(self, pixels: torch.Tensor, inside: torch.Tensor | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(B, 3, H, W) float32 in [0, 1] -> embeddings (B, E) and pyramid of (B, C_l, H_l, W_l), on the backbone's device.

        inside: (B, H, W) bool, the region of interest. With one, or one that is found in each image, the embeddings are of images
        that are blank outside, and the finest level has one more channel: 0 for cells inside, and outside so much that no
        cell inside is ever matched to one. Where the region is the same for all, levels are cut to `window`.
        """
        embeddings, pyramid = self._all(pixels)
        if inside is None and self.foreground is None:
            return embeddings, pyramid
        if self.foreground is not None:
            found = self.foreground.mask(pyramid[-1])
            inside = F.interpolate(found[:, None].float(), size=pixels.shape[-2:])[:, 0] > 0
        assert inside is not None
        blank = torch.where(inside[:, None].to(pixels.device), pixels, self.backbone.shift.to(pixels.device))
        embeddings, _ = self._all(blank)
        window, size = self.window, (pixels.shape[-2], pixels.shape[-1])
        far = 3 * torch.stack([level.square().sum(1).amax((1, 2)) for level in pyramid]).sum(0).sqrt()  # beyond any distance
        cells = F.adaptive_max_pool2d(inside[:, None].float(), pyramid[0].shape[-2:]).to(far.device)
        pyramid[0] = torch.cat([pyramid[0], (1 - cells) * far[:, None, None, None]], dim=1)
        return embeddings, pyramid if window is None else [cut(level, window, size) for level in pyramid]

    @property
    def window(self) -> tuple[int, int, int, int] | None:
        """Top, left, height and width, in pixels of the input, of the part in which the region of interest lies where that is
        the same for all images; its edges lie where cells of all levels end. None: all of it."""
        if not isinstance(self.roi, dict) or not isinstance(self.resize, tuple) or self.tile is not None:
            return None
        box, size = centre_crop(*self.resize, self.resize, self.crop)
        masks = masks_of(self.roi)
        assert masks is not None
        inside = cut_mask(masks(""), box, self.resize, size)
        edges = []
        for axis, multiple in enumerate(self.backbone.fitting.multiple):
            used = np.flatnonzero(inside.any(axis=1 - axis))
            start = used[0] // multiple * multiple
            edges.append((int(start), int(min(-(-(used[-1] + 1) // multiple) * multiple, size[axis]) - start)))
        return edges[0][0], edges[1][0], edges[0][1], edges[1][1]

    @torch_defaults()
    def ready(self, source: ImageSource) -> Extractor:
        """For a fit on the images of `source`: with the size that they share, and for roi "auto" the foreground they show."""
        settled = replace(self, resize=source.settle())
        if self.roi != AUTO:
            return settled
        levels = [settled._all(pixels[None])[1][-1].cpu() for pixels in source.samples()]
        return replace(settled, foreground=Foreground.learnt(torch.cat(levels)))

    def _all(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        size = 1 if self.backbone.device.type == "cpu" else self.batch_size
        parts = [self._same_shape(part, size) for part in pixels.split(size)]
        pyramid = [torch.cat(level) if len(level) > 1 else level[0] for level in zip(*(part[1] for part in parts), strict=True)]
        return torch.cat([part[0] for part in parts]), averaged(pyramid) if self.local_average else pyramid

    @property
    def margin(self) -> int:
        """Mirrored pixels around every picture."""
        return self.backbone.margin if self.reflect_border else 0

    def _same_shape(self, pixels: torch.Tensor, size: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        count = len(pixels)
        if count < size:
            pixels = torch.cat([pixels, pixels[-1:].expand(size - count, -1, -1, -1)])
        embeddings, pyramid = continued(self.backbone, pixels, self.margin)
        return embeddings[:count], [level[:count] for level in pyramid]

    def stream(self, images: Images, *, skip_bad: bool = False, argument: str = "images", task: str = "add") -> FeatureStream:
        """The features of images, in host memory, batch by batch. The stream's extractor is `ready`."""
        source = self.open(images, skip_bad=skip_bad, argument=argument, augmented=True)
        known = not isinstance(self.resize, str) and (self.roi != AUTO or self.foreground is not None)
        return FeatureStream(self if known else self.ready(source), source, task)

    def spec(self) -> dict[str, Any]:
        """What the features depend on, as JSON-able values. Two banks whose specs agree can be merged."""
        return {
            "backbone": self.backbone.spec(),
            "resize": _plain(self.resize),
            "crop": _plain(self.crop),
            "local_average": self.local_average,
            "reflect_border": self.reflect_border,
            "tile": _plain(self.tile),
            "overlap": self.overlap if self.tile is not None else None,
            "roi": self.roi,
        }


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def averaged(pyramid: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Every level (B, C, H, W) averaged over 3 x 3 places, fewer at the border."""
    return [F.avg_pool2d(level, 3, stride=1, padding=1, count_include_pad=False) for level in pyramid]


MIRRORED = 24  # images at most; of half as many, brick's border was corrected too little


class Mirrored:
    """Features of up to MIRRORED images mirrored left to right, spread evenly over however many come.

    found: (number of the image, its features): of those whose number, counted from `first`, is a multiple of a step that doubles
    when they become too many.
    """

    def __init__(self, first: int = 0) -> None:
        self.found: list[tuple[int, Features]] = []
        self._next, self._step = first, 1

    def take(self, network: Network, pixels: torch.Tensor, names: Sequence[str]) -> None:
        """The next images (B, 3, H, W)."""
        for i, name in enumerate(names):
            if (self._next + i) % self._step == 0:
                embeddings, pyramid = network(pixels[i : i + 1].flip(3))
                self.found.append((self._next + i, Features(embeddings.cpu(), [level.cpu() for level in pyramid], [name])))
        self._next += len(names)
        self.found, self._step = thinned(self.found, self._step)


def thinned(found: list[tuple[int, Features]], step: int = 1) -> tuple[list[tuple[int, Features]], int]:
    while len(found) > MIRRORED:
        step *= 2
        found = [one for one in found if one[0] % step == 0]
    return found, step


class FeatureStream:
    """Iterates `Features`, once.

    extractor: what makes them, with the size that these images share. Complete once the iteration has ended: skipped, (name,
    error) of what skip_bad left out; mirrored, of some of the images where the border is continued by reflection.
    """

    def __init__(self, extractor: Extractor, source: ImageSource, task: str, first: int = 0) -> None:
        self.extractor = replace(extractor, resize=source.settle())  # a number becomes what it means for these images
        self._source, self._task = source, task
        self.skipped: list[tuple[str, FastspadeError]] = []
        self.mirrored = Mirrored(first)

    def __iter__(self) -> Iterator[Features]:
        if self.extractor.progress and (self.extractor.tile is not None or self.extractor.augment):
            self._tell()
        with progress_bar(self._source.total, self._task, self.extractor.progress) as bar:
            for batch in self._source:
                embeddings, pyramid = self.extractor(batch.pixels, batch.inside)
                yield Features(embeddings.cpu(), [level.cpu() for level in pyramid], batch.names)
                if self.extractor.margin and self.extractor.roi is None:
                    self.mirrored.take(self.extractor, batch.pixels, batch.names)
                bar.update(batch.complete)
        self.skipped = list(self._source.skipped)

    def _tell(self) -> None:
        """How large the bank will be and how long that takes, on the standard error stream, before it is made: measured on an entry
        of the first image, which has as many as the others are taken to have."""
        views = self._source.first_views()
        if len(views) < 2:
            return
        inside = (
            None if masks_of(self.extractor.roi) is None else torch.ones(1, *views[0].shape[1:], dtype=torch.bool, device="cpu")
        )
        self.extractor(views[0][None], inside)  # the first call takes longer
        start = time.perf_counter()
        _, pyramid = self.extractor(views[0][None], inside)
        seconds = time.perf_counter() - start
        known = self._source.total
        what, entries = ("each image", len(views)) if known is None else (f"{known} images", known * len(views))
        size = sum(level[0].numel() for level in pyramid) * 4 / 2**20
        tell(
            f"{self._task}: {what} in {entries} entries (tiles, turned copies), {size * entries:.0f} MiB as float32, "
            f"about {seconds * entries:.0f} s of the network"
        )
