"""Batches of images -> scored pictures: both stages for each batch, tiles put together, maps brought to the picture's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from fastspade import maps
from fastspade.bank import Snapshot
from fastspade.errors import InputError
from fastspade.files.progress import known_length, progress_bar
from fastspade.images import ImageBatch, ImageSource
from fastspade.images.geometry import CropBox, part_of
from fastspade.images.region import cut_mask, masks_of
from fastspade.images.views import ViewName
from fastspade.spade.fitted import FittedModel
from fastspade.spade.matching import Matches
from fastspade.spade.mosaic import Mosaic
from fastspade.spade.result import KeptPicture, ScoredImage, resized
from fastspade.torch_defaults import torch_defaults

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Found:
    """Of one picture, on the host: its map (H, W) of the network's input, the flat gallery index (h, w) of every cell's nearest
    neighbour, the image score, its nearest images (K,) and their squared distances, and the cells (h, w) in the region of
    interest, None where they were not looked for."""

    smoothed: torch.Tensor
    nearest: torch.Tensor
    score: float
    neighbors: torch.Tensor
    distances: torch.Tensor
    inside: torch.Tensor | None = None

    @classmethod
    def of(cls, found: Matches, i: int) -> Found:
        inside = None if found.inside is None else found.inside[i]
        return cls(found.smoothed[i], found.nearest[i], float(found.scores[i]), found.neighbors[i], found.distances[i], inside)


@dataclass(frozen=True)
class Scoring:
    """A fitted model and the state of its bank that images are scored against. The thresholds are told with every picture."""

    model: FittedModel
    bank: Snapshot
    threshold: float | None
    pixel_threshold: float | None

    def run(self, source: ImageSource) -> Iterator[ScoredImage]:
        model = self.model
        mosaic: Mosaic | None = None
        with progress_bar(known_length(source), "score", model.progress) as bar:
            for batch in source:
                found = self._matched(batch)
                if model.tile is None:
                    for i in range(len(batch)):
                        yield self._picture(batch, i, Found.of(found, i))
                else:
                    tiles = [tile for tile in batch.tiles if tile is not None]
                    mosaic = mosaic or Mosaic(tiles[0].of, model.tile, (found.nearest.shape[1], found.nearest.shape[2]))
                    mosaic.add(found, tiles)
                    if batch.complete:
                        one = mosaic.smoothed, mosaic.nearest, mosaic.score, mosaic.neighbors, mosaic.distances
                        yield self._picture(batch, 0, Found(*one))
                        mosaic = None
                bar.update(batch.complete)
        model.skipped = list(source.skipped)

    @torch_defaults()
    def _matched(self, batch: ImageBatch) -> Matches:
        model, bank = self.model, self.bank
        embeddings, pyramid = model.features(batch.pixels, *([] if batch.inside is None else [batch.inside]))
        for i, (mine, stored) in enumerate(zip(pyramid, bank.levels.shapes, strict=True)):
            if mine.shape[1:] != stored:
                raise InputError(
                    f"test_images give {tuple(mine.shape[1:])} features at level {i}, the normal images gave "
                    f"{stored}; both need the same resize and crop"
                )
        window = model.extractor.window
        size = (batch.pixels.shape[-2], batch.pixels.shape[-1]) if window is None else window[2:]
        return model.matcher(bank).match(embeddings, pyramid, model.device_bank(bank), size, names=batch.names)

    def _picture(self, batch: ImageBatch, i: int, found: Found) -> ScoredImage:
        """The record of the batch's i-th image, or of the picture that its i-th tile belongs to."""
        tile, model = batch.tiles[i], self.model
        crop = batch.crops[i] if tile is None else tile.whole(batch.crops[i], batch.pixels.shape[-2:])
        pixels, window = batch.pixels[i], model.extractor.window
        if window is not None:  # of the region of interest; the rest is as if it had been cropped
            crop = part_of(crop, (pixels.shape[1], pixels.shape[2]), window)
            pixels = pixels[:, window[0] : window[0] + window[2], window[1] : window[1] + window[3]]
        picture: Callable[[], Image.Image] = batch.originals[i]
        if model.keep_crop:
            shown, size = found.smoothed, (found.smoothed.shape[0], found.smoothed.shape[1])
            picture = KeptPicture(pixels) if tile is None else partial(resized, picture, crop, size)
        else:
            shown = maps.place_in_image(found.smoothed, crop, batch.sizes[i])
        name = batch.names[i] if tile is None else ViewName.parse(batch.names[i]).picture
        inside = self._inside(name, batch.sizes[i], found.inside, (shown.shape[0], shown.shape[1]), crop)
        if inside is not None:
            shown = shown * inside
        _, height, width = self.bank.levels.shapes[0]
        image, place = found.nearest.numpy() // (height * width), found.nearest.numpy() % (height * width)
        return ScoredImage(
            name=name,
            score=found.score,
            anomaly_map=shown.numpy(),
            neighbors=found.neighbors.numpy(),
            neighbor_distances=found.distances.numpy(),
            matched_image=image,
            matched_y=place // width,
            matched_x=place % width,
            picture=picture,
            size=batch.sizes[i],
            crop=crop,
            threshold=self.threshold,
            pixel_threshold=self.pixel_threshold,
            roi=None if inside is None else inside.numpy(),
        )

    def _inside(
        self, name: str, size: tuple[int, int], cells: torch.Tensor | None, out: tuple[int, int], crop: CropBox
    ) -> torch.Tensor | None:
        """Which of a map's pixels lie in the region of interest: of a mask that was given, or else of the cells that were found.

        size: of the picture; out: of the map."""
        masks, keep_crop = masks_of(self.model.roi), self.model.keep_crop
        if masks is not None:
            return torch.from_numpy(cut_mask(masks(name), crop if keep_crop else CropBox(0, 0, *size), size, out))
        if cells is None:
            return None
        if keep_crop:
            return F.interpolate(cells[None, None].float(), size=out)[0, 0] > 0
        return maps.place_in_image(cells.float(), crop, size, border="zero") >= 0.5
