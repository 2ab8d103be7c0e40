"""Images -> features, the same bits for an image whatever images come with it.

A network's output may differ in its last bit with the shape of the batch. So the network always sees batches of one shape:
single images on the CPU (which takes as long as larger batches), batches filled up to `batch_size` on CUDA. An image's
features then depend neither on its neighbours nor on its place among them, and a bank that grew image by image equals one
fitted at once. What remains is the network's own: another device, thread count, `batch_size` (on CUDA), or version of torch
and its libraries may give other last bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from fastspade.backbones import Backbone
from fastspade.errors import FastspadeError
from fastspade.files.progress import progress_bar
from fastspade.images import DEFAULT_MAX_PIXELS, ImageSource, open_source

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
    resize: int
    crop: int
    local_average: bool = False
    batch_size: int = 8
    num_workers: int | None = None
    max_pixels: int | None = DEFAULT_MAX_PIXELS
    progress: bool = False

    def open(self, images: Images, *, skip_bad: bool = False, argument: str = "images") -> ImageSource:
        """Images of any kind that `fastspade.images.open_source` takes, as batches for the backbone."""
        return open_source(
            images,
            resize=self.resize,
            crop=self.crop,
            batch_size=self.batch_size,
            skip_bad=skip_bad,
            num_workers=self.num_workers,
            max_pixels=self.max_pixels,
            argument=argument,
        )

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(B, 3, H, W) float32 in [0, 1] -> embeddings (B, E) and pyramid of (B, C_l, H_l, W_l), on the backbone's device."""
        size = 1 if self.backbone.device.type == "cpu" else self.batch_size
        parts = [self._same_shape(part, size) for part in pixels.split(size)]
        pyramid = [torch.cat(level) if len(level) > 1 else level[0] for level in zip(*(part[1] for part in parts), strict=True)]
        return torch.cat([part[0] for part in parts]), averaged(pyramid) if self.local_average else pyramid

    def _same_shape(self, pixels: torch.Tensor, size: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        count = len(pixels)
        if count < size:
            pixels = torch.cat([pixels, pixels[-1:].expand(size - count, -1, -1, -1)])
        embeddings, pyramid = self.backbone(pixels)
        return embeddings[:count], [level[:count] for level in pyramid]

    def stream(self, images: Images, *, skip_bad: bool = False, argument: str = "images", task: str = "add") -> FeatureStream:
        """The features of images, in host memory, batch by batch."""
        return FeatureStream(self, self.open(images, skip_bad=skip_bad, argument=argument), task)

    def spec(self) -> dict[str, Any]:
        """What the features depend on, as JSON-able values. Two banks whose specs agree can be merged."""
        return {
            "backbone": self.backbone.spec(),
            "resize": self.resize,
            "crop": self.crop,
            "local_average": self.local_average,
        }


def averaged(pyramid: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Every level (B, C, H, W) averaged over 3 x 3 places, fewer at the border."""
    return [F.avg_pool2d(level, 3, stride=1, padding=1, count_include_pad=False) for level in pyramid]


class FeatureStream:
    """Iterates `Features`, once. skipped: (name, error) of what skip_bad left out, complete once the iteration has ended."""

    def __init__(self, extractor: Extractor, source: ImageSource, task: str) -> None:
        self._extractor, self._source, self._task = extractor, source, task
        self.skipped: list[tuple[str, FastspadeError]] = []

    def __iter__(self) -> Iterator[Features]:
        with progress_bar(self._source.total, self._task, self._extractor.progress) as bar:
            for batch in self._source:
                embeddings, pyramid = self._extractor(batch.pixels)
                yield Features(embeddings.cpu(), [level.cpu() for level in pyramid], batch.names)
                bar.update(len(batch.names))
        self.skipped = list(self._source.skipped)
