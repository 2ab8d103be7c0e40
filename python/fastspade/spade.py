"""SPADE itself: fit on normal images, score test images (Cohen and Hoshen, arXiv 2005.02357)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastspade import maps, model_file
from fastspade.backbones import Backbone, backbone_from_spec, load_backbone
from fastspade.bank import Bank, Snapshot
from fastspade.bank.snapshot import check_storage_dtype
from fastspade.errors import FastspadeError, InputError, ModelFileError
from fastspade.features import Extractor
from fastspade.images import DEFAULT_MAX_PIXELS, ImageBatch, ImageSource
from fastspade.matching import Matcher
from fastspade.options import IMAGE_SCORES, check_choices, check_crop, check_limits, check_numbers, check_pixels, pick_device
from fastspade.progress import known_length, progress_bar
from fastspade.resident import ResidentBank
from fastspade.result import KeptPicture, Result, ScoredImage
from fastspade.search.cuda import has_cuda_engine
from fastspade.search.levels import Shape
from fastspade.threshold import LargestValues, Threshold, check_rate, check_threshold

if TYPE_CHECKING:
    from PIL import Image
    from fastspade.arguments import Images

__all__ = ["IMAGE_SCORES", "Result", "ScoredImage", "Spade"]

# Held while a bank is brought to a device: threads that score with one Spade share what is brought.
_resident_guard = threading.Lock()


class Spade:
    """Finds and outlines defects, having seen only good images. Fit once, score many.

    backbone: "wide_resnet50_2" (the paper's), "resnet18", "resnet50", "efficientnet_lite0", or any torch.nn.Module with
        `layers` naming the modules whose outputs are the pyramid, or a Backbone from fastspade.backbones.load_backbone.
    k: normal images each test image is compared with in stage 2; k_image: how many of them make the image score (None:
        k). The paper uses 50 for both; published reproductions of its image ROC-AUC use 3 to 5 for k_image.
    kappa: nearest gallery pixels a pixel's score averages over (eq. 3).
    upsample: "bilinear" or "nearest", how levels are brought to one resolution. precision: "exact" or "fast", as of
        `pyramid_knn`.
    sigma: of the Gaussian that smooths the map, in pixels of the cropped image.
    image_score: "knn" (the paper: mean squared distance to the k_image nearest normal images), "max" of the anomaly map,
        "top1%" (mean of its highest hundredth), or "reweighted" (PatchCore's, arXiv 2106.08265, eq. 7).
    local_average: average every level's features over 3 x 3 places before matching. Not in the paper.
    window: match a pixel only to gallery pixels at most this many pixels of the crop away from its own place, in y and
        in x; for aligned images. None, the paper's: the whole image.
    resize, crop: images are resized, then centre-cropped, before the backbone (paper: 256, 224).
    keep_crop: maps cover the crop alone instead of being put back at the input's own size.
    device: None picks the CPU, or CUDA where this build has a CUDA engine and a device is present.
    batch_size: images a backbone call. num_workers: decoding threads (None: 2). progress: show progress bars on a
        terminal. weights: a local state-dict file. max_pixels: image files with more in their header are refused before
        they are decoded (None: no limit).
    storage_dtype: what the normal images' features are kept as: "float32", or "float16" or "bfloat16", which take half the
        memory and change scores a little. memory_limit: bytes of the normal images' features held at once, on the device, and
        on the host where the model is in a folder. A larger bank is read in parts while it is searched. None: what is free
        on the device; on the CPU about 512 MiB of a model in a folder.
    """

    def __init__(
        self,
        backbone: str | torch.nn.Module | Backbone = "wide_resnet50_2",
        *,
        k: int = 50,
        k_image: int | None = None,
        kappa: int = 1,
        layers: Sequence[str] | None = None,
        upsample: str = "bilinear",
        sigma: float = 4.0,
        image_score: str = "knn",
        local_average: bool = False,
        window: float | None = None,
        resize: int = 256,
        crop: int = 224,
        keep_crop: bool = False,
        device: str | torch.device | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        progress: bool = True,
        weights: str | Path | None = None,
        precision: str = "exact",
        storage_dtype: str = "float32",
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        memory_limit: int | None = None,
    ) -> None:
        check_numbers(k=k, kappa=kappa, batch_size=batch_size, resize=resize, crop=crop)
        check_limits(k_image=k_image, max_pixels=max_pixels)
        check_crop(crop, resize)
        check_pixels(sigma, window)
        check_choices(upsample=upsample, image_score=image_score, precision=precision)
        check_storage_dtype(storage_dtype)
        check_limits(memory_limit=memory_limit)
        self.storage_dtype, self.memory_limit = storage_dtype, memory_limit
        self.k, self.k_image, self.kappa = int(k), None if k_image is None else int(k_image), int(kappa)
        self.upsample, self.sigma, self.image_score = upsample, float(sigma), image_score
        self.local_average, self.window = bool(local_average), None if window is None else float(window)
        self.resize, self.crop, self.keep_crop = int(resize), int(crop), bool(keep_crop)
        self.batch_size, self.num_workers, self.progress, self.precision = batch_size, num_workers, progress, precision
        self.max_pixels = max_pixels
        self.device = pick_device(device)
        self.backbone: Backbone = load_backbone(backbone, layers=layers, weights=weights, device=self.device)
        self.bank: Bank | None = None
        self.threshold: Threshold | None = None  # set by calibrate
        self._resident: ResidentBank | None = None
        self.skipped: list[tuple[str, Exception]] = []  # what skip_bad left out of the last fit or score
        self._told_few_images = False

    # -- fitting

    def fit(self, normal_images: Images, *, skip_bad: bool = False, path: str | Path | None = None) -> Spade:
        """Learn what good looks like: extract and keep the features of `normal_images`. Returns self.

        normal_images: a path, folder, glob, PIL image, numpy (H, W, 3) uint8, a list of those, a tensor (N, 3, H, W) in
        [0, 1] or uint8, or a DataLoader. skip_bad: leave unreadable images out instead of raising. path: a folder to keep
        the features in, as `save` writes it: they go there as they come, so that they need not fit into memory.
        """
        extractor = self._extractor
        stream = extractor.stream(normal_images, skip_bad=skip_bad, argument="normal_images", task="fit")
        if path is None:
            bank = Bank.collect(stream, storage_dtype=check_storage_dtype(self.storage_dtype), extractor=extractor)
            self._check_kappa(len(bank), bank.level_shapes)
        else:
            bank = Bank.write(
                path, stream, storage_dtype=self.storage_dtype, extractor=extractor, options=self.options(), accept=self._check_kappa
            )
        self.bank, self.threshold, self.skipped = bank, None, list(stream.skipped)
        self._told_few_images = False
        return self

    def add(self, normal_images: Images, *, skip_bad: bool = False) -> tuple[int, ...]:
        """Add normal images to those fitted, without computing theirs again; returns the new images' ids (Bank.add).

        A threshold calibrated before is no longer used: call calibrate() again.
        """
        bank = self._fitted()
        ids = bank.add(normal_images, skip_bad=skip_bad)
        self.skipped = list(bank.skipped)
        return ids

    def remove(self, ids: Iterable[int]) -> None:
        """Take normal images out by their ids (Bank.remove). A threshold calibrated before is no longer used."""
        self._fitted().remove(ids)

    def calibrate(self, target_fpr: float = 0.01, pixel_target_fpr: float = 0.01) -> Threshold:
        """Find thresholds for decisions and masks from the normal images alone, by leave-one-out; keeps and returns them.

        Every normal image is scored against the others, from the features already kept: no image is read again.
        target_fpr: the share of normal images that may be called defects. pixel_target_fpr: the share of all their
        pixels that may be masked. Of N images the smallest share that can be told is 1 / N; below it the threshold is
        the largest score seen. Raises InputError where there is only one normal image.
        """
        bank = self._fitted().snapshot
        check_rate("target_fpr", target_fpr)
        check_rate("pixel_target_fpr", pixel_target_fpr)
        if len(bank) < 2:
            raise InputError("calibrate needs at least 2 normal images, got 1")
        size = (self.crop, self.crop)
        self._check_kappa(len(bank) - 1, bank.levels.shapes)
        scores = LargestValues(len(bank), target_fpr)
        pixels = LargestValues(len(bank) * size[0] * size[1], pixel_target_fpr)
        matcher = self._matcher(bank, left_out=1)
        with progress_bar(len(bank), "calibrate", self.progress) as bar:
            for start in range(0, len(bank), self.batch_size):
                chosen = torch.arange(start, min(start + self.batch_size, len(bank)))
                pyramid = [level.float().to(self._search_device) for level in bank.levels.gather(chosen)]
                embeddings = bank.embeddings[chosen].to(self._search_device)
                found = matcher.match(embeddings, pyramid, self._resident_bank(bank), size, left_out=chosen)
                scores.add(np.array(found.scores))
                pixels.add(found.smoothed.numpy())
                bar.update(len(chosen))
        self.threshold = Threshold(scores.quantile(), pixels.quantile(), target_fpr, pixel_target_fpr, len(bank), bank.next_id)
        return self.threshold

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
        bank = self._fitted().snapshot
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
        bank = self._fitted().snapshot
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
        found = self._matcher(bank).match(embeddings, pyramid, self._resident_bank(bank), size)
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
                    score=found.scores[i],
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
        embeddings, pyramid = self._extractor(pixels)
        return embeddings.to(self._search_device), [level.to(self._search_device) for level in pyramid]

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
        image, pixel = check_threshold("threshold", threshold), check_threshold("pixel_threshold", pixel_threshold)
        if known is not None:
            image, pixel = known.image if image is None else image, known.pixel if pixel is None else pixel
        return image, pixel

    # -- saving

    def options(self) -> dict[str, Any]:
        """The settings that scores depend on, as plain values."""
        names = (
            *("k", "k_image", "kappa", "upsample", "sigma", "image_score", "local_average", "window"),
            *("resize", "crop", "keep_crop", "precision", "storage_dtype"),
        )
        return {name: getattr(self, name) for name in names}

    def save(self, path: str | Path) -> None:
        """Write the fitted model, and its threshold if it was calibrated; atomically, so that a model already there stays
        whole until the new one is.

        path: ending in .safetensors, one file, which is read whole when it is loaded; else a folder (Bank.save), which is
        read as scoring needs it, and changed on disk by `add` and `remove` of a model loaded from it.
        """
        bank = self._fitted()
        options = self.options() | ({} if self.threshold is None else {"threshold": self.threshold.as_dict()})
        if Path(path).suffix == ".safetensors":
            model_file.write_model(path, bank, options, self.backbone.spec())
        else:
            bank.save(path, options)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backbone: torch.nn.Module | None = None,
        device: str | torch.device | None = None,
        weights: str | Path | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        progress: bool = True,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        memory_limit: int | None = None,
    ) -> Spade:
        """Read a model that `save` wrote. A model of your own backbone needs that module as `backbone`.

        Raises MissingFileError, or ModelFileError naming what does not fit.
        """
        check_numbers(batch_size=batch_size)
        check_limits(memory_limit=memory_limit)
        if Path(path).is_dir():
            bank = Bank.open(path)
            if bank.options is None or bank.made_by is None:
                raise ModelFileError(f"path: {path} holds a bank, but no model; open it with Bank.open")
            options, spec = dict(bank.options), bank.made_by["backbone"]
        else:
            bank, header = model_file.read_model(path)
            options, spec = dict(header["options"]), header["backbone"]
        known = options.pop("threshold", None)
        device = pick_device(device)
        running: dict[str, Any] = dict(batch_size=batch_size, num_workers=num_workers, progress=progress, max_pixels=max_pixels, memory_limit=memory_limit)
        try:
            restored = backbone_from_spec(spec, module=backbone, weights=weights, device=device)
        except FastspadeError:
            raise
        except Exception as error:  # whatever a hostile description provokes
            raise ModelFileError(f"path: {path} does not describe a backbone: {type(error).__name__}: {error}") from error
        try:
            model = cls(restored, device=device, **running, **options)
        except (FastspadeError, TypeError) as error:
            raise ModelFileError(f"path: {path} holds options that cannot be used: {error}") from error
        model._check_kappa(len(bank), bank.level_shapes)
        bank.equip(model._extractor)
        model.bank = bank
        model.threshold = None if known is None else Threshold.from_dict(known)
        return model

    # -- helpers

    def _open(self, images: Images, skip_bad: bool, argument: str) -> ImageSource:
        return self._extractor.open(images, skip_bad=skip_bad, argument=argument)

    @property
    def _extractor(self) -> Extractor:
        names = ("backbone", "resize", "crop", "local_average", "batch_size", "num_workers", "max_pixels", "progress")
        return Extractor(**{name: getattr(self, name) for name in names})

    def _fitted(self) -> Bank:
        if self.bank is None:
            raise InputError("this Spade has no normal images yet; call fit(normal_images) or Spade.load(path) first")
        return self.bank

    @property
    def _search_device(self) -> torch.device:
        """Where both stages run: the backbone's device where this build has an engine for it, else the CPU."""
        return self.device if self.device.type == "cuda" and has_cuda_engine() else torch.device("cpu")

    def _resident_bank(self, bank: Snapshot) -> ResidentBank:
        """The bank on the search's device, brought there once. It is made again when the bank or the sampling changes."""
        with _resident_guard:
            known = self._resident
            wanted = self._search_device, self.upsample, self.memory_limit
            if known is None or known.bank is not bank or (known.device, known.upsample, known.memory_limit) != wanted:
                known = self._resident = ResidentBank(bank, *wanted)
            return known

    def _matcher(self, bank: Snapshot, left_out: int = 0) -> Matcher:
        """The options for matching; k and k_image at most the normal images that there are, less `left_out`."""
        wanted = self.k, self.k if self.k_image is None else self.k_image
        if max(wanted) > len(bank) and not self._told_few_images:
            self._told_few_images = True
            warnings.warn(f"k={max(wanted)} but there are {len(bank)} normal images; using all of them", stacklevel=4)
        k, k_image = (min(value, len(bank) - left_out) for value in wanted)
        same = ("kappa", "upsample", "sigma", "image_score", "window", "precision")
        return Matcher(k, k_image, **{name: getattr(self, name) for name in same})

    def _check_kappa(self, images: int, shapes: Sequence[Shape]) -> None:
        _, height, width = shapes[0]
        pixels = min(self.k, images) * height * width
        if self.kappa > pixels:
            raise InputError(f"kappa must be at most the gallery's {pixels} pixels, got {self.kappa}")
