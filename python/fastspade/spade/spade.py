"""SPADE itself: fit on normal images, score test images (Cohen and Hoshen, arXiv 2005.02357)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastspade import maps
from fastspade.backbones import Backbone, backbone_from_spec, load_backbone
from fastspade.backbones.extractor import Extractor
from fastspade.bank import Bank, Snapshot, model_file
from fastspade.bank.snapshot import check_storage_dtype
from fastspade.errors import FastspadeError, InputError, ModelFileError
from fastspade.files.progress import known_length, progress_bar
from fastspade.images import ImageBatch, ImageSource
from fastspade.search import knn
from fastspade.search.cuda import has_cuda_engine
from fastspade.search.device import pick_device
from fastspade.search.levels import Shape
from fastspade.spade import checks
from fastspade.spade.device_bank import DeviceBank
from fastspade.spade.matching import Matcher, Matches, without_itself
from fastspade.spade.options import DEFAULT_BACKBONE, Options, given, names, takes_options
from fastspade.spade.result import KeptPicture, Result, ScoredImage
from fastspade.spade.threshold import LargestValues, Threshold

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
    error) of what skip_bad left out of the last fit or score. settings: the checked `Options`.

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
        self.threshold: Threshold | None = None
        self.skipped: list[tuple[str, Exception]] = []
        self._device_bank: DeviceBank | None = None
        self._told_few_images = False

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in _NAMES and "settings" in self.__dict__:
                return getattr(self.settings, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def __setattr__(self, name: str, value: Any) -> None:
            if name in _NAMES:  # a change is checked as it was at the start
                self.settings = replace(self.settings, **{name: value})
            else:
                object.__setattr__(self, name, value)

    # -- fitting

    def fit(self, normal_images: Images, *, skip_bad: bool = False, path: str | Path | None = None) -> Spade:
        """Learn what good looks like: extract and keep the features of `normal_images`. Returns self.

        normal_images: a path, folder, glob, PIL image, numpy (H, W, 3) uint8, a list of those, a tensor (N, 3, H, W) in
        [0, 1] or uint8, or a DataLoader. skip_bad: leave unreadable images out instead of raising. path: a folder to keep
        the features in, as `save` writes it: they go there as they come, so that they need not fit into memory.
        """
        extractor = self.extractor
        stream = extractor.stream(normal_images, skip_bad=skip_bad, argument="normal_images", task="fit")
        if path is None:
            bank = Bank.collect(stream, storage_dtype=check_storage_dtype(self.storage_dtype), extractor=extractor)
            self.check_kappa(len(bank), bank.level_shapes)
        else:
            bank = Bank.write(
                path, stream, storage_dtype=self.storage_dtype, extractor=extractor, options=self.options(), accept=self.check_kappa
            )
        self.bank, self.threshold, self.skipped = bank, None, list(stream.skipped)
        self._told_few_images = False
        return self

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

    def calibrate(self, target_fpr: float = 0.01, pixel_target_fpr: float = 0.01) -> Threshold:
        """Find thresholds for decisions and masks from the normal images alone, by leave-one-out; keeps and returns them.

        Every normal image is scored against the others, from the features already kept: no image is read again.
        target_fpr: the share of normal images that may be called defects. pixel_target_fpr: the share of all their
        pixels that may be masked. Of N images the smallest share that can be told is 1 / N; below it the threshold is
        the largest score seen. Raises InputError where there is only one normal image.
        """
        bank = self.fitted_bank().snapshot
        checks.share("target_fpr", target_fpr)
        checks.share("pixel_target_fpr", pixel_target_fpr)
        if len(bank) < 2:
            raise InputError("calibrate needs at least 2 normal images, got 1")
        scores = LargestValues(len(bank), target_fpr)
        pixels = LargestValues(len(bank) * self.crop * self.crop, pixel_target_fpr)
        for found in self._leave_one_out(bank):
            scores.add(found.scores.numpy())
            pixels.add(found.smoothed.numpy())
        self.threshold = Threshold(scores.quantile(), pixels.quantile(), target_fpr, pixel_target_fpr, len(bank), bank.next_id)
        return self.threshold

    def _leave_one_out(self, bank: Snapshot) -> Iterator[Matches]:
        """Every normal image matched against the others, batch by batch, from the features kept."""
        self.check_kappa(len(bank) - 1, bank.levels.shapes)
        matcher, gallery = self.matcher(bank, left_out=1), self.device_bank(bank)
        with progress_bar(len(bank), "calibrate", self.progress) as bar:
            for chosen in torch.arange(len(bank)).split(self.batch_size):
                pyramid = [level.float().to(self.search_device) for level in bank.levels.gather(chosen)]
                embeddings = bank.embeddings[chosen].to(self.search_device)
                yield matcher.match(embeddings, pyramid, gallery, (self.crop, self.crop), left_out=chosen)
                bar.update(len(chosen))

    def normal_scores(self) -> np.ndarray:
        """(N,) float64: the image score of every normal image against all the others, from the features kept.

        Raises InputError where there is only one.
        """
        bank = self.fitted_bank().snapshot
        if len(bank) < 2:
            raise InputError("normal scores need at least 2 normal images, got 1")
        if self.image_score != "knn":
            return np.concatenate([found.scores.numpy() for found in self._leave_one_out(bank)])
        k_image = min(self.k if self.k_image is None else self.k_image, len(bank) - 1)  # stage 1 alone
        distances, neighbors = knn(bank.embeddings, bank.embeddings, k_image + 1)
        return without_itself(distances, neighbors, torch.arange(len(bank)))[0].double().mean(dim=1).numpy()

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
        with progress_bar(known_length(source), "score", self.progress) as bar:
            for batch in source:
                yield from self._score_batch(batch, bank, threshold, pixel_threshold)
                bar.update(len(batch.names))
        self.skipped = list(source.skipped)

    def _score_batch(
        self, batch: ImageBatch, bank: Snapshot, threshold: float | None, pixel_threshold: float | None
    ) -> list[ScoredImage]:
        embeddings, pyramid = self._features(batch.pixels)
        for i, (mine, stored) in enumerate(zip(pyramid, bank.levels.shapes, strict=True)):
            if mine.shape[1:] != stored:
                raise InputError(
                    f"test_images give {tuple(mine.shape[1:])} features at level {i}, the normal images gave "
                    f"{stored}; both need the same resize and crop"
                )
        size = (batch.pixels.shape[-2], batch.pixels.shape[-1])
        found = self.matcher(bank).match(embeddings, pyramid, self.device_bank(bank), size)
        height, width = found.nearest.shape[-2:]
        nearest = found.nearest.numpy()
        image, place = nearest // (height * width), nearest % (height * width)
        scored = []
        for i, name in enumerate(batch.names):
            picture: Callable[[], Image.Image]
            if self.keep_crop:
                shown, picture = found.smoothed[i], KeptPicture(batch.pixels[i])
            else:
                shown = maps.place_in_image(found.smoothed[i], batch.crops[i], batch.sizes[i])
                picture = batch.originals[i]
            scored.append(
                ScoredImage(
                    name=name,
                    score=float(found.scores[i]),
                    anomaly_map=shown.numpy(),
                    neighbors=found.neighbors[i].numpy(),
                    neighbor_distances=found.distances[i].numpy(),
                    matched_image=image[i],
                    matched_y=place[i] // width,
                    matched_x=place[i] % width,
                    picture=picture,
                    size=batch.sizes[i],
                    crop=batch.crops[i],
                    threshold=threshold,
                    pixel_threshold=pixel_threshold,
                )
            )
        return scored

    def _features(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        embeddings, pyramid = self.extractor(pixels)
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

    def save(self, path: str | Path) -> None:
        """Write the fitted model, and its threshold if it was calibrated; atomically, so that a model already there stays
        whole until the new one is.

        path: ending in .safetensors, one file, which is read whole when it is loaded; else a folder (Bank.save), which is
        read as scoring needs it, and changed on disk by `add` and `remove` of a model loaded from it.
        """
        bank = self.fitted_bank()
        options = self.options() | ({} if self.threshold is None else {"threshold": self.threshold.as_dict()})
        if Path(path).suffix == ".safetensors":
            model_file.write_model(path, bank, options, self.backbone.spec())
        else:
            bank.save(path, options)

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
        if Path(path).is_dir():
            bank = Bank.open(path)
            if bank.options is None or bank.made_by is None:
                raise ModelFileError(f"path: {path} holds a bank, but no model; open it with Bank.open")
            options, spec = dict(bank.options), bank.made_by["backbone"]
        else:
            bank, header = model_file.read_model(path)
            options, spec = dict(header["options"]), header["backbone"]
        known = options.pop("threshold", None)
        running["device"] = device = pick_device(running["device"])
        try:
            restored = backbone_from_spec(spec, module=backbone, weights=weights, device=device)
        except FastspadeError:
            raise
        except Exception as error:  # whatever a hostile description provokes
            raise ModelFileError(f"path: {path} does not describe a backbone: {type(error).__name__}: {error}") from error
        try:
            model = cls(restored, **running, **options)
        except (FastspadeError, TypeError) as error:
            raise ModelFileError(f"path: {path} holds options that cannot be used: {error}") from error
        model.check_kappa(len(bank), bank.level_shapes)
        bank.equip(model.extractor)
        model.bank = bank
        model.threshold = None if known is None else Threshold.from_dict(known)
        return model

    # -- helpers

    def _open(self, images: Images, skip_bad: bool, argument: str) -> ImageSource:
        return self.extractor.open(images, skip_bad=skip_bad, argument=argument)

    # The package's front ends build on these five; they are no part of the public interface.

    @property
    def extractor(self) -> Extractor:
        wanted = ("resize", "crop", "local_average", "batch_size", "num_workers", "max_pixels", "progress")
        return Extractor(self.backbone, **{name: getattr(self, name) for name in wanted})

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

    def matcher(self, bank: Snapshot, left_out: int = 0) -> Matcher:
        """The options for matching; k and k_image at most the normal images that there are, less `left_out`."""
        wanted = self.k, self.k if self.k_image is None else self.k_image
        if max(wanted) > len(bank) and not self._told_few_images:
            self._told_few_images = True
            warnings.warn(f"k={max(wanted)} but there are {len(bank)} normal images; using all of them", stacklevel=4)
        k, k_image = (min(value, len(bank) - left_out) for value in wanted)
        same = ("kappa", "upsample", "sigma", "image_score", "window", "precision")
        return Matcher(k, k_image, **{name: getattr(self, name) for name in same})

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
