"""SPADE itself: fit on normal images, score test images (Cohen and Hoshen, arXiv 2005.02357)."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from fastspade import maps
from fastspade.backbones import Backbone, backbone_from_spec, load_backbone
from fastspade.backbones.extractor import Extractor, Features
from fastspade.backbones.foreground import Foreground
from fastspade.bank import Bank, Snapshot, model_file
from fastspade.bank.snapshot import check_storage_dtype
from fastspade.errors import FastspadeError, InputError, ModelFileError
from fastspade.files.home import user_path
from fastspade.files.progress import known_length, progress_bar
from fastspade.images import ImageBatch, ImageSource, sides
from fastspade.images.geometry import CropBox, part_of
from fastspade.images.region import cut_mask, masks_of
from fastspade.images.views import ViewName
from fastspade.search.cuda import has_cuda_engine
from fastspade.search.device import pick_device
from fastspade.search.levels import Shape
from fastspade.spade import checks
from fastspade.spade.border import as_profile
from fastspade.spade.device_bank import DeviceBank
from fastspade.spade.duplicates import tell_duplicates, without_duplicates
from fastspade.spade.leave_one_out import border_profile, current_ceiling, judged, left_out_scores, picture_scores
from fastspade.spade.matching import Matcher, Matches
from fastspade.spade.mosaic import Mosaic
from fastspade.spade.options import DEFAULT_BACKBONE, Options, completed, given, names, takes_options
from fastspade.spade.origins import Origins
from fastspade.spade.relative import Ceiling
from fastspade.spade.result import KeptPicture, Result, ScoredImage, resized
from fastspade.spade.threshold import FEW, LargestValues, Threshold, percent, tail_quantile
from fastspade.torch_defaults import torch_defaults

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Unpack

    from fastspade.images.entry import Images
    from fastspade.spade.options import OptionsDict

    _Attributes = Options  # every option is an attribute of a Spade
else:
    _Attributes = object

__all__ = ["Spade", "score"]

_NAMES = frozenset(names())
# Held while a bank is brought to a device: threads that score with one Spade share what is brought.
_device_bank_guard = threading.Lock()


class Spade(_Attributes):
    """Finds and outlines defects, having seen only good images. Fit once, score many.

    backbone: "wide_resnet50_2" (the paper's), "resnet18", "resnet50", "efficientnet_lite0", or any torch.nn.Module with
        `layers` naming the modules whose outputs are the pyramid, or a Backbone from fastspade.backbones.load_backbone.
    options: those of `fastspade.spade.Options`, by name; each is an attribute, too. The paper uses 50 for both k and k_image;
        published reproductions of its image ROC-AUC use 3 to 5 for k_image.

    bank: the normal images' features, None before `fit`. threshold: what `calibrate` found, None before it. skipped: (name,
    error) of what skip_bad left out of the last fit or score. settings: the checked `Options`. shared_size: the (height, width)
    that all images are resized to, which `fit` finds; None where every image keeps its aspect ratio and is cropped.

    Raises InputError or DtypeError, which name the option, what it got and what it needs.
    """

    settings: Options
    device: torch.device

    @takes_options()
    def __init__(self, backbone: str | torch.nn.Module | Backbone = DEFAULT_BACKBONE, **options: Unpack[OptionsDict]) -> None:
        self.settings = Options(**given(dict(options), "Spade()"))
        self.device = pick_device(self.settings.device)
        self.backbone: Backbone = load_backbone(backbone, layers=self.layers, weights=self.weights, device=self.device)
        self.bank: Bank | None = None
        self.shared_size: tuple[int, int] | None = None
        self.threshold: Threshold | None = None
        self.foreground: Foreground | None = None  # of roi "auto"
        self.border: torch.Tensor | None = None  # the profile of `fastspade.spade.border`
        self.ceiling: Ceiling | None = None  # of image_score "relative": made when it is needed
        self.skipped: list[tuple[str, Exception]] = []
        self._device_bank: DeviceBank | None = None
        self._origins: tuple[Snapshot, Origins] | None = None
        self._told_few_images = False

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in _NAMES and "settings" in self.__dict__:
                return getattr(self.settings, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def __setattr__(self, name: str, value: Any) -> None:
            if name in _NAMES:  # a change is checked as it was at the start
                self.settings = replace(self.settings, **{name: value})
                self.ceiling = None  # the maps may change with it
            else:
                object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_device_bank": None, "_origins": None}  # which are made anew

    # -- fitting

    def fit(self, normal_images: Images, *, skip_bad: bool = False, path: str | Path | None = None) -> Spade:
        """Learn what good looks like: extract and keep the features of `normal_images`. Returns self.

        normal_images: a path, folder, glob, PIL image, numpy (H, W, 3) uint8, a list of those, a tensor (N, 3, H, W) in
        [0, 1] or uint8, or a DataLoader. skip_bad: leave unreadable images out instead of raising. path: a folder to keep
        the features in, as `save` writes it: they are written as they are computed, so that they need not fit into memory.
        """
        stream = self.new_extractor().stream(normal_images, skip_bad=skip_bad, argument="normal_images", task="fit")
        extractor = stream.extractor
        if path is None:
            bank = Bank.collect(stream, storage_dtype=check_storage_dtype(self.storage_dtype), extractor=extractor)
            self.check_kappa(len(bank), bank.level_shapes)
        else:
            bank = Bank.write(
                path, stream, storage_dtype=self.storage_dtype, extractor=extractor, accept=self.check_kappa,
                options=self.options() | ({"shared_size": extractor.resize} if isinstance(extractor.resize, tuple) else {}),
            )  # fmt: skip
        self._learned(bank, extractor, stream.skipped, stream.mirrored.found)
        if path is not None and (self.border is not None or self.foreground is not None):
            bank.save(path, self.record())
        return self

    @torch_defaults()
    def _learned(
        self, bank: Bank, extractor: Extractor, skipped: Iterable[tuple[str, Exception]], mirrored: Sequence[tuple[int, Features]]
    ) -> None:
        """Take the bank of a fit that has succeeded."""
        self.bank, self.threshold, self.ceiling, self.skipped = bank, None, None, list(skipped)
        self.shared_size = extractor.resize if isinstance(extractor.resize, tuple) else None
        self.foreground = extractor.foreground
        self._told_few_images = False
        self.border = border_profile(self, bank.snapshot, mirrored)

    def add(self, normal_images: Images, *, skip_bad: bool = False) -> tuple[int, ...]:
        """Add normal images to those fitted, without computing theirs again; returns the new images' ids (Bank.add).

        A threshold calibrated before is no longer used: call calibrate() again.
        """
        bank = self.fitted_bank()
        ids = bank.add(normal_images, skip_bad=skip_bad)
        self.skipped = list(bank.skipped)
        return ids

    def remove(self, ids: Iterable[int]) -> None:
        """Take normal images out by their ids (Bank.remove). A threshold calibrated before is no longer used."""
        self.fitted_bank().remove(ids)

    @torch_defaults()
    def calibrate(self, target_fpr: float = 0.01, pixel_target_fpr: float = 0.01) -> Threshold:
        """Find thresholds for decisions and masks from the normal images alone, by leave-one-out; keeps and returns them.

        Every normal image, or 300 of them evenly spread where there are more, is scored against all the others, from the
        features in the bank: no image is read again. target_fpr: the share of new normal images that may be called defects;
        their scores' tail is extrapolated (fastspade.spade.threshold), and with few images the real share is uncertain:
        Threshold.false_alarm_range says how much, and fewer than 50 images are warned of. 0: the largest score seen.
        pixel_target_fpr: the share of all their pixels that may be masked. Raises InputError where there is only one normal
        image.
        """
        bank = self.fitted_bank().snapshot
        checks.share("target_fpr", target_fpr)
        checks.share("pixel_target_fpr", pixel_target_fpr)
        if len(bank) < 2:
            raise InputError("calibrate needs at least 2 normal images, got 1")
        whole, bank = bank, without_duplicates(bank, "thresholds are calibrated")
        if len(bank) < 2:
            raise InputError(f"calibrate needs at least 2 different normal images, but all {len(whole)} are the same")
        chosen = judged(self, bank)
        pixels = LargestValues(len(chosen) * math.prod(self.input_size), pixel_target_fpr)
        scores = left_out_scores(self, bank, chosen, lambda found: pixels.add(found.smoothed.numpy()))
        if self.ceiling is not None:
            self.ceiling = replace(self.ceiling, images=len(whole))
        image, pixel = tail_quantile(picture_scores(self, bank, chosen, scores), target_fpr), pixels.quantile()
        self.threshold = Threshold(image, pixel, target_fpr, pixel_target_fpr, len(whole), whole.next_id)
        if len(bank) < FEW:
            low, high = map(percent, self.threshold.false_alarm_range())
            warnings.warn(
                f"there are {len(bank)} normal images: {low} to {high} of new good ones will be called defects (target "
                f"{percent(target_fpr)}, in 9 of 10 cases); {FEW} or more make decisions surer",
                stacklevel=3,
            )
        return self.threshold

    @torch_defaults()
    def normal_scores(self) -> np.ndarray:
        """(N,) float64: the image score of every normal image against all the others, from the features kept.

        Duplicates match each other, so that their scores are low; a warning names a pair. Raises InputError where there is only one.
        """
        bank = self.fitted_bank().snapshot
        if len(bank) < 2:
            raise InputError("normal scores need at least 2 normal images, got 1")
        tell_duplicates(bank, "they match each other, so that their own scores are low")
        chosen = judged(self, bank, every=True)
        return picture_scores(self, bank, chosen, left_out_scores(self, bank, chosen))

    # -- scoring

    def score(
        self,
        test_images: Images,
        *,
        skip_bad: bool = False,
        threshold: float | None = None,
        pixel_threshold: float | None = None,
    ) -> Result:
        """Score images; the same kinds of `test_images` as `fit` takes. Returns a Result.

        threshold, pixel_threshold: scores, and values of the map, above them are defects; None uses those of `calibrate`.
        """
        bank = self.fitted_bank().snapshot
        source = self._open(test_images, skip_bad, "test_images")
        scored = list(self._score_source(source, bank, *self._thresholds(bank, threshold, pixel_threshold)))
        return Result(scored, bank.names, list(source.skipped))

    def score_batches(
        self,
        test_images: Images,
        *,
        skip_bad: bool = False,
        threshold: float | None = None,
        pixel_threshold: float | None = None,
    ) -> Iterator[ScoredImage]:
        """Like `score`, one image at a time, so that memory does not grow with the number of images."""
        bank = self.fitted_bank().snapshot
        source = self._open(test_images, skip_bad, "test_images")
        return self._score_source(source, bank, *self._thresholds(bank, threshold, pixel_threshold))

    def _score_source(
        self, source: ImageSource, bank: Snapshot, threshold: float | None, pixel_threshold: float | None
    ) -> Iterator[ScoredImage]:
        mosaic: Mosaic | None = None
        with progress_bar(known_length(source), "score", self.progress) as bar:
            for batch in source:
                found = self._matched(batch, bank)
                if self.tile is None:
                    for i in range(len(batch)):
                        one = found.smoothed[i], found.nearest[i], float(found.scores[i]), found.neighbors[i], found.distances[i]
                        cells = None if found.inside is None else found.inside[i]
                        yield self._scored(batch, i, bank, threshold, pixel_threshold, *one, cells)
                else:
                    tiles = [tile for tile in batch.tiles if tile is not None]
                    mosaic = mosaic or Mosaic(tiles[0].of, self.tile, (found.nearest.shape[1], found.nearest.shape[2]))
                    mosaic.add(found, tiles)
                    if batch.complete:
                        one = mosaic.smoothed, mosaic.nearest, mosaic.score, mosaic.neighbors, mosaic.distances
                        yield self._scored(batch, 0, bank, threshold, pixel_threshold, *one)
                        mosaic = None
                bar.update(batch.complete)
        self.skipped = list(source.skipped)

    @torch_defaults()
    def _matched(self, batch: ImageBatch, bank: Snapshot) -> Matches:
        embeddings, pyramid = self._features(batch.pixels) if batch.inside is None else self._features(batch.pixels, batch.inside)
        for i, (mine, stored) in enumerate(zip(pyramid, bank.levels.shapes, strict=True)):
            if mine.shape[1:] != stored:
                raise InputError(
                    f"test_images give {tuple(mine.shape[1:])} features at level {i}, the normal images gave "
                    f"{stored}; both need the same resize and crop"
                )
        window = self.extractor.window
        size = (batch.pixels.shape[-2], batch.pixels.shape[-1]) if window is None else window[2:]
        return self.matcher(bank).match(embeddings, pyramid, self.device_bank(bank), size, names=batch.names)

    def _inside(
        self, batch: ImageBatch, i: int, cells: torch.Tensor | None, shown: torch.Tensor, crop: CropBox
    ) -> torch.Tensor | None:
        """Which of a map's pixels lie in the region of interest: of a mask that was given, or else of the cells that were found."""
        masks = masks_of(self.roi)
        size, out = batch.sizes[i], (shown.shape[0], shown.shape[1])
        if masks is not None:
            name = ViewName.parse(batch.names[i]).picture if batch.tiles[i] is not None else batch.names[i]
            box = crop if self.keep_crop else CropBox(0, 0, *size)
            return torch.from_numpy(cut_mask(masks(name), box, size, out))
        if cells is None:
            return None
        if self.keep_crop:
            return F.interpolate(cells[None, None].float(), size=out)[0, 0] > 0
        return maps.place_in_image(cells.float(), crop, size, border="zero") >= 0.5

    def _scored(
        self,
        batch: ImageBatch,
        i: int,
        bank: Snapshot,
        threshold: float | None,
        pixel_threshold: float | None,
        smoothed: torch.Tensor,
        nearest: torch.Tensor,
        score: float,
        neighbors: torch.Tensor,
        distances: torch.Tensor,
        cells: torch.Tensor | None = None,
    ) -> ScoredImage:
        """The record of the batch's i-th image, or of the picture that its i-th tile belongs to."""
        tile = batch.tiles[i]
        crop = batch.crops[i] if tile is None else tile.whole(batch.crops[i], batch.pixels.shape[-2:])
        pixels, window = batch.pixels[i], self.extractor.window
        if window is not None:  # of the region of interest; the rest is as if it had been cropped
            crop = part_of(crop, (pixels.shape[1], pixels.shape[2]), window)
            pixels = pixels[:, window[0] : window[0] + window[2], window[1] : window[1] + window[3]]
        picture: Callable[[], Image.Image] = batch.originals[i]
        if self.keep_crop:
            shown = smoothed
            picture = (
                KeptPicture(pixels) if tile is None else partial(resized, picture, crop, (smoothed.shape[0], smoothed.shape[1]))
            )
        else:
            shown = maps.place_in_image(smoothed, crop, batch.sizes[i])
        inside = self._inside(batch, i, cells, shown, crop)
        if inside is not None:
            shown = shown * inside
        _, height, width = bank.levels.shapes[0]
        image, place = nearest.numpy() // (height * width), nearest.numpy() % (height * width)
        return ScoredImage(
            name=batch.names[i] if tile is None else ViewName.parse(batch.names[i]).picture,
            score=score,
            anomaly_map=shown.numpy(),
            neighbors=neighbors.numpy(),
            neighbor_distances=distances.numpy(),
            matched_image=image,
            matched_y=place // width,
            matched_x=place % width,
            picture=picture,
            size=batch.sizes[i],
            crop=crop,
            threshold=threshold,
            pixel_threshold=pixel_threshold,
            roi=None if inside is None else inside.numpy(),
        )

    def _features(self, pixels: torch.Tensor, inside: torch.Tensor | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        embeddings, pyramid = self.extractor(pixels, inside)
        return embeddings.to(self.search_device), [level.to(self.search_device) for level in pyramid]

    def _thresholds(
        self, bank: Snapshot, threshold: float | None, pixel_threshold: float | None
    ) -> tuple[float | None, float | None]:
        """What the caller gave, or else what was calibrated."""
        known = self.threshold
        if known is not None and not known.fits(len(bank), bank.next_id):
            warnings.warn(
                f"the threshold was calibrated on {known.images} normal images, but there are {len(bank)}, or others; "
                "it is not used; call calibrate() again",
                stacklevel=3,
            )
            known = None
        image, pixel = checks.optional_number("threshold", threshold), checks.optional_number("pixel_threshold", pixel_threshold)
        if known is not None:
            image, pixel = known.image if image is None else image, known.pixel if pixel is None else pixel
        return image, pixel

    # -- saving

    def options(self) -> dict[str, Any]:
        """The options that scores depend on, as plain values."""
        return self.settings.kept()

    def record(self) -> dict[str, Any]:
        """What a saved model holds beside the bank and the backbone."""
        current_ceiling(self, self.fitted_bank().snapshot)  # made now, so that who loads the model need not
        found = {
            "shared_size": self.shared_size,
            "threshold": None if self.threshold is None else self.threshold.as_dict(),
            "foreground": None if self.foreground is None else self.foreground.as_dict(),
            "border": None if self.border is None else self.border.tolist(),
            "ceiling": None if self.ceiling is None else self.ceiling.as_dict(),
        }
        return self.options() | {name: value for name, value in found.items() if value is not None}

    def save(self, path: str | Path) -> None:
        """Write the fitted model, and its threshold if it was calibrated; atomically, so that a model already there stays
        whole until the new one is.

        path: ending in .safetensors, one file, which is read whole when it is loaded; else a folder (Bank.save), which is
        read as scoring needs it, and changed on disk by `add` and `remove` of a model loaded from it.
        """
        bank = self.fitted_bank()
        if Path(path).suffix and Path(path).suffix != ".safetensors" and not Path(path).exists():
            warnings.warn(f"path: {path} becomes a folder; a name ending in .safetensors makes one file", stacklevel=2)
        if Path(path).suffix == ".safetensors":
            model_file.write_model(path, bank, self.record(), self.backbone.spec())
        else:
            bank.save(path, self.record())

    @classmethod
    @takes_options("running")
    def load(
        cls,
        path: str | Path,
        *,
        backbone: torch.nn.Module | None = None,
        weights: str | Path | None = None,
        **running: Any,
    ) -> Spade:
        """Read a model that `save` wrote. A model of your own backbone needs that module as `backbone`.

        weights: the local state-dict file that it was fitted with. running: of `Options`, how and where the work is done.

        Raises MissingFileError, or ModelFileError naming what does not fit.
        """
        running = given(running, "Spade.load()", "running")
        Options(**running)  # what the caller gave is not to be blamed on the file
        path = user_path(path)
        if path.is_dir():
            bank = Bank.open(path)
            if bank.options is None or bank.made_by is None:
                raise ModelFileError(f"path: {path} holds a bank, but no model; open it with Bank.open")
            options, spec = completed(bank.options), bank.made_by["backbone"]
        else:
            bank, header = model_file.read_model(path)
            options, spec = completed(header["options"]), header["backbone"]
        known, shared_size = options.pop("threshold", None), options.pop("shared_size", None)
        ceiling, border, foreground = (options.pop(name, None) for name in ("ceiling", "border", "foreground"))
        running["device"] = device = pick_device(running["device"])
        try:
            restored = backbone_from_spec(spec, module=backbone, weights=weights, device=device)
        except FastspadeError:
            raise
        except Exception as error:  # whatever a hostile description provokes
            raise ModelFileError(f"path: {path} does not describe a backbone: {type(error).__name__}: {error}") from error
        try:
            model = cls(restored, **running, **options)
            model.shared_size = None if shared_size is None else sides.pair("shared_size", shared_size)
        except (FastspadeError, TypeError) as error:
            raise ModelFileError(f"path: {path} holds options that cannot be used: {error}") from error
        model.foreground = None if foreground is None else Foreground.from_dict(foreground)
        model.check_kappa(len(bank), bank.level_shapes)
        bank.equip(model.extractor)
        model.bank = bank
        model.threshold = None if known is None else Threshold.from_dict(known)
        model.border = None if border is None else as_profile(border)
        model.ceiling = None if ceiling is None else Ceiling.from_dict(ceiling)
        return model

    # -- helpers

    def _open(self, images: Images, skip_bad: bool, argument: str) -> ImageSource:
        return self.extractor.open(images, skip_bad=skip_bad, argument=argument)

    # The package's front ends build on these; they are no part of the public interface.

    @property
    def extractor(self) -> Extractor:
        """Of the fitted model, and so with the size that its images share."""
        new = self.new_extractor()
        return replace(new, resize=self.shared_size or new.resize, foreground=self.foreground)

    def new_extractor(self) -> Extractor:
        """For a fit, which finds that size."""
        wanted = (
            "resize",
            "crop",
            "local_average",
            "reflect_border",
            "tile",
            "overlap",
            "augment",
            "roi",
            "batch_size",
            "num_workers",
            "max_pixels",
            "progress",
        )
        return Extractor(self.backbone, **{name: getattr(self, name) for name in wanted})

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of what is compared, in pixels of the network's input: a tile where there are tiles, the part in which
        the region of interest lies where there is one. Raises InputError where only fit will tell."""
        size = self.shared_size if self.crop is None else self.crop
        window = self.extractor.window
        size = self.tile or (size if window is None else window[2:])
        if size is None:
            raise InputError("the size of the network's input follows from the normal images: call fit(normal_images) first")
        return size if isinstance(size, tuple) else (size, size)

    def fitted_bank(self) -> Bank:
        if self.bank is None:
            raise InputError("this Spade has no normal images yet; call fit(normal_images) or Spade.load(path) first")
        return self.bank

    @property
    def search_device(self) -> torch.device:
        """Where both stages run: the backbone's device where this build has an engine for it, else the CPU."""
        return self.device if self.device.type == "cuda" and has_cuda_engine() else torch.device("cpu")

    def device_bank(self, bank: Snapshot) -> DeviceBank:
        """The bank on the search's device, brought there once. It is made again when the bank or the sampling changes."""
        with _device_bank_guard:
            known = self._device_bank
            wanted = self.search_device, self.upsample, self.memory_limit
            if known is None or known.bank is not bank or (known.device, known.upsample, known.memory_limit) != wanted:
                known = self._device_bank = DeviceBank(bank, *wanted)
            return known

    def matcher(self, bank: Snapshot, left_out: int = 0, border: bool = True) -> Matcher:
        """The options for matching; k and k_image at most the normal images that there are, less `left_out`. border: divide maps
        by the border's profile, where there is one."""
        wanted = self.k, self.k if self.k_image is None else self.k_image
        origins = self.origins_of(bank)
        known = len(bank) if origins is None else origins.usable(leave_out=False)
        if max(wanted) > known and not self._told_few_images:
            self._told_few_images = True
            warnings.warn(f"k={max(wanted)} but there are {known} normal images; using all of them", stacklevel=4)
        usable = known - left_out if origins is None else origins.usable(bool(left_out))
        if usable < 1:
            raise InputError("calibrate needs at least 2 normal images, got 1")
        k, k_image = (min(value, usable) for value in wanted)
        same = {name: getattr(self, name) for name in ("kappa", "upsample", "sigma", "image_score", "window", "precision")}
        if (left_out or not border) and self.image_score == "relative":  # these scores come when all maps are known
            same["image_score"] = "max"
        ceiling = None if same["image_score"] != "relative" else current_ceiling(self, bank)
        return Matcher(
            k, k_image, **same, ceiling=ceiling, origins=origins, roi=self.roi is not None, border=self.border if border else None
        )

    def origins_of(self, bank: Snapshot) -> Origins | None:
        """None where every entry of the bank is an image of its own."""
        if self.tile is None and not self.augment:
            return None
        if self._origins is None or self._origins[0] is not bank:
            self._origins = bank, Origins(bank.names, self.aligned)
        return self._origins[1]

    def check_kappa(self, images: int, shapes: Sequence[Shape]) -> None:
        _, height, width = shapes[0]
        pixels = min(self.k, images) * height * width
        if self.kappa > pixels:
            raise InputError(f"kappa must be at most the gallery's {pixels} pixels, got {self.kappa}")


@takes_options()
def score(
    test_images: Images,
    normal_images: Images,
    *,
    backbone: str | torch.nn.Module | Backbone = DEFAULT_BACKBONE,
    skip_bad: bool = False,
    **options: Unpack[OptionsDict],
) -> Result:
    """Find defects in `test_images`, given only `normal_images` (SPADE, arXiv 2005.02357).

    Both may be a path, folder, glob, PIL image, numpy (H, W, 3) uint8, a list of those, a tensor (N, 3, H, W) or a
    DataLoader. skip_bad: leave unreadable images out (they are listed in the result) instead of raising.
    backbone, options: those of `Spade`, e.g. k, kappa, sigma, device.

    Returns a `Result` with image_scores (N,), anomaly_maps (N, H, W) and neighbors (N, K).
    """
    return Spade(backbone, **options).fit(normal_images, skip_bad=skip_bad).score(test_images, skip_bad=skip_bad)
