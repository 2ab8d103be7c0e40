"""What scoring returns: one record per image, and the collection of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fastspade import maps
from fastspade.errors import InputError
from fastspade.images.decode import to_show
from fastspade.images.geometry import CropBox

if TYPE_CHECKING:
    from PIL import Image

S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class ScoredImage:
    """Everything about one scored image.

    name; score: the image score, higher is more anomalous; anomaly_map: (H, W) float32 at the image's own size (at the
    crop's with keep_crop). neighbors: (K,) int64 normal images, nearest first; neighbor_distances: (K,) float32 squared
    L2. matched_image, matched_y, matched_x: (h, w) int64 at feature resolution, the correspondence: which normal image
    each pixel was matched to, and where in that image's feature grid. Of an image cut into tiles all are put together; its
    neighbours are those of the tile that scored highest. picture(): the RGB Pillow image the map lies over,
    decoded again when asked for, so that keeping a result keeps no pictures.
    size, crop: the image's own (height, width), and where in it the network's input lay.
    threshold, pixel_threshold: above which the score, or a value of the map, counts as a defect; None without one.
    roi: like the map, which pixels lie in the region of interest; None without one.
    """

    name: str
    score: float
    anomaly_map: NDArray[np.float32]
    neighbors: NDArray[np.int64]
    neighbor_distances: NDArray[np.float32]
    matched_image: NDArray[np.int64]
    matched_y: NDArray[np.int64]
    matched_x: NDArray[np.int64]
    picture: Callable[[], Image.Image] = field(repr=False)
    size: tuple[int, int]
    crop: CropBox
    threshold: float | None = None
    pixel_threshold: float | None = None
    roi: NDArray[np.bool_] | None = None

    @property
    def seen(self) -> CropBox | None:
        """The part of the map's picture that the network saw; None where that is all of it."""
        whole = (self.crop.height, self.crop.width) == self.size or self.anomaly_map.shape != self.size
        return None if whole else self.crop

    @property
    def is_defect(self) -> bool:
        """The decision: is the score above the threshold? Raises InputError where there is none."""
        return bool(self.score > _known(self.threshold, "threshold"))

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool: where the map is above its threshold. Raises InputError where there is none."""
        return self.anomaly_map > _known(self.pixel_threshold, "pixel_threshold")


def _known(value: float | None, name: str) -> float:
    if value is None:
        raise InputError(f"{name} is not known: call calibrate() on the fitted Spade, or pass {name} to score")
    return value


@dataclass
class Result:
    """Scores of N test images, in the order given. Each array is put together once, when it is first asked for.

    names: N names. image_scores: (N,) float32, higher is more anomalous. anomaly_maps: (N, H, W) float32 at the images'
    own size, or a list of N arrays (H_i, W_i) where sizes differ. neighbors: (N, K) int64, the normal images used,
    nearest first; neighbor_distances: (N, K) float32, squared L2; neighbor_names: name of every normal image.
    matched_image, matched_y, matched_x: (N, h, w) int64 at feature resolution: the correspondence, i.e. the normal
    image and the place in its feature grid that each pixel's nearest neighbour is.
    decisions: (N,) bool, is it a defect; masks: like anomaly_maps, bool. Both need a threshold (Spade.calibrate).
    skipped: (name, reason) of images left out with skip_bad, and of what lay in the folders and is no image (LeftOutError).
    """

    images: list[ScoredImage] = field(repr=False)
    neighbor_names: tuple[str, ...] = field(repr=False)
    skipped: list[tuple[str, Exception]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def names(self) -> list[str]:
        return [image.name for image in self.images]

    @cached_property
    def image_scores(self) -> NDArray[np.float32]:
        return np.array([image.score for image in self.images], dtype=np.float32)

    @cached_property
    def anomaly_maps(self) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        return _stacked([image.anomaly_map for image in self.images])

    @cached_property
    def decisions(self) -> NDArray[np.bool_]:
        return np.array([image.is_defect for image in self.images], dtype=bool)

    @cached_property
    def masks(self) -> NDArray[np.bool_] | list[NDArray[np.bool_]]:
        return _stacked([image.mask for image in self.images])

    @cached_property
    def neighbors(self) -> NDArray[np.int64]:
        return np.stack([image.neighbors for image in self.images])

    @cached_property
    def neighbor_distances(self) -> NDArray[np.float32]:
        return np.stack([image.neighbor_distances for image in self.images])

    @cached_property
    def matched_image(self) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        return _stacked([image.matched_image for image in self.images])

    @cached_property
    def matched_y(self) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        return _stacked([image.matched_y for image in self.images])

    @cached_property
    def matched_x(self) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        return _stacked([image.matched_x for image in self.images])

    def overlay(self, i: int) -> Image.Image:
        """Image i with its anomaly map over it, as a PIL image; all images of the result share one colour scale.

        Where the model has a threshold, the mask is outlined.
        """
        if not -len(self) <= i < len(self):
            raise InputError(f"i must be an image number from 0 to {len(self) - 1}, got {i}")
        low, high = self._scale
        image = self.images[i]
        mask = None if image.pixel_threshold is None else image.mask
        return maps.overlay(image.picture(), image.anomaly_map, vmin=low, vmax=high, mask=mask, seen=image.seen)

    @cached_property
    def _scale(self) -> tuple[float, float]:
        """The least and the greatest value of all maps."""
        return (
            min(float(image.anomaly_map.min()) for image in self.images),
            max(float(image.anomaly_map.max()) for image in self.images),
        )


def _stacked(found: list[NDArray[S]]) -> NDArray[S] | list[NDArray[S]]:
    return np.stack(found) if len({one.shape for one in found}) == 1 else found


def resized(picture: Callable[[], Image.Image], crop: CropBox, size: tuple[int, int]) -> Image.Image:
    """The crop of a picture at `size` (H, W)."""
    corners = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    return picture().resize((size[1], size[0]), box=corners)


class KeptPicture:
    """A crop (3, H, W) in [0, 1] kept as 8-bit pixels, shown when called."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self._pixels = np.asarray(to_show(pixels.clamp(0, 1)))

    def __call__(self) -> Image.Image:
        from PIL import Image

        return Image.fromarray(self._pixels)
