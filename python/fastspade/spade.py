"""SPADE itself: fit on normal images, score test images (Cohen and Hoshen, arXiv 2005.02357)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastspade import maps, model_file
from fastspade.backbones import Backbone, backbone_from_spec, load_backbone
from fastspade.bank import Bank
from fastspade.errors import DtypeError, InputError, ModelFileError
from fastspade.images import ImageBatch, ImageSource, open_source
from fastspade.progress import progress_bar
from fastspade.search import pyramid_knn

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SCORES = ("knn", "max", "top1%")


@dataclass(frozen=True)
class ScoredImage:
    """Everything about one scored image.

    name; score: the image score, higher is more anomalous; anomaly_map: (H, W) float32 at the image's own size (at the
    crop's with keep_crop). neighbors: (K,) int64 normal images, nearest first; neighbor_distances: (K,) float32 squared
    L2. matched_image, matched_y, matched_x: (h, w) int64 at feature resolution, the correspondence: which normal image
    each pixel was matched to, and where in that image's feature grid. picture(): the RGB Pillow image the map lies over,
    decoded again when asked for, so that keeping a result keeps no pictures.
    """

    name: str
    score: float
    anomaly_map: np.ndarray
    neighbors: np.ndarray
    neighbor_distances: np.ndarray
    matched_image: np.ndarray
    matched_y: np.ndarray
    matched_x: np.ndarray
    picture: Callable[[], Image.Image] = field(repr=False)


@dataclass
class Result:
    """Scores of N test images, in the order given.

    names: N names. image_scores: (N,) float32, higher is more anomalous. anomaly_maps: (N, H, W) float32 at the images'
    own size, or a list of N arrays (H_i, W_i) where sizes differ. neighbors: (N, K) int64, the normal images used,
    nearest first; neighbor_distances: (N, K) float32, squared L2; neighbor_names: name of every normal image.
    matched_image, matched_y, matched_x: (N, h, w) int64 at feature resolution: the correspondence, i.e. the normal
    image and the place in its feature grid that each pixel's nearest neighbour is.
    skipped: (name, reason) of images left out with skip_bad.
    """

    images: list[ScoredImage] = field(repr=False)
    neighbor_names: tuple[str, ...] = field(repr=False)
    skipped: list[tuple[str, Exception]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> list[str]:
        return [image.name for image in self.images]

    @property
    def image_scores(self) -> np.ndarray:
        return np.array([image.score for image in self.images], dtype=np.float32)

    @property
    def anomaly_maps(self) -> np.ndarray | list[np.ndarray]:
        found = [image.anomaly_map for image in self.images]
        return np.stack(found) if len({m.shape for m in found}) == 1 else found

    @property
    def neighbors(self) -> np.ndarray:
        return np.stack([image.neighbors for image in self.images])

    @property
    def neighbor_distances(self) -> np.ndarray:
        return np.stack([image.neighbor_distances for image in self.images])

    @property
    def matched_image(self) -> np.ndarray:
        return np.stack([image.matched_image for image in self.images])

    @property
    def matched_y(self) -> np.ndarray:
        return np.stack([image.matched_y for image in self.images])

    @property
    def matched_x(self) -> np.ndarray:
        return np.stack([image.matched_x for image in self.images])

    def overlay(self, i: int) -> Image.Image:
        """Image i with its anomaly map over it, as a PIL image; all images of the result share one colour scale."""
        if not -len(self) <= i < len(self):
            raise InputError(f"i must be an image number from 0 to {len(self) - 1}, got {i}")
        low = min(float(image.anomaly_map.min()) for image in self.images)
        high = max(float(image.anomaly_map.max()) for image in self.images)
        image = self.images[i]
        return maps.overlay(image.picture(), image.anomaly_map, vmin=low, vmax=high)


class Spade:
    """Finds and outlines defects, having seen only good images. Fit once, score many.

    backbone: "wide_resnet50_2" (the paper's), "resnet18", "resnet50", "efficientnet_lite0", or any torch.nn.Module with
        `layers` naming the modules whose outputs are the pyramid, or a Backbone from fastspade.backbones.load_backbone.
    k: normal images each test image is compared with in stage 2; k_image: how many of them make the image score (None:
        k). The paper uses 50 for both; published reproductions of its image ROC-AUC use 3 to 5 for k_image.
    kappa: nearest gallery pixels a pixel's score averages over (eq. 3).
    upsample: "bilinear" or "nearest", how levels are brought to one resolution.
    sigma: of the Gaussian that smooths the map, in pixels of the cropped image.
    image_score: "knn" (the paper: mean squared distance to the k_image nearest normal images), "max" of the anomaly map,
        or "top1%" (mean of its highest hundredth).
    resize, crop: images are resized, then centre-cropped, before the backbone (paper: 256, 224).
    keep_crop: maps cover the crop alone instead of being put back at the input's own size.
    device: None picks the CPU, or CUDA where this build has a CUDA engine and a device is present.
    batch_size: images a backbone call. num_workers: decoding threads (None: 2). progress: show progress bars on a
        terminal. weights: a local state-dict file.
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
        resize: int = 256,
        crop: int = 224,
        keep_crop: bool = False,
        device: str | torch.device | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        progress: bool = True,
        weights: str | Path | None = None,
        precision: str = "exact",
    ) -> None:
        for name, value in (("k", k), ("kappa", kappa), ("batch_size", batch_size), ("resize", resize), ("crop", crop)):
            _positive(name, value)
        if k_image is not None:
            _positive("k_image", k_image)
        if crop > resize:
            raise InputError(f"crop must not exceed resize ({resize}), got {crop}")
        if not (isinstance(sigma, (int, float)) and np.isfinite(sigma) and sigma >= 0):
            raise InputError(f"sigma must be a finite number of pixels, 0 or more, got {sigma!r}")
        for name, value, choices in (
            ("upsample", upsample, ("bilinear", "nearest")),
            ("image_score", image_score, IMAGE_SCORES),
            ("precision", precision, ("exact", "fast")),
        ):
            if value not in choices:
                raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
        self.k, self.k_image, self.kappa = int(k), None if k_image is None else int(k_image), int(kappa)
        self.upsample, self.sigma, self.image_score = upsample, float(sigma), image_score
        self.resize, self.crop, self.keep_crop = int(resize), int(crop), bool(keep_crop)
        self.batch_size, self.num_workers, self.progress, self.precision = batch_size, num_workers, progress, precision
        self.device = _pick_device(device)
        self.backbone: Backbone = load_backbone(backbone, layers=layers, weights=weights, device=self.device)
        self.bank: Bank | None = None
        self.skipped: list[tuple[str, Exception]] = []  # what skip_bad left out of the last fit or score
        self._told_few_images = False

    # -- fitting

    def fit(self, normal_images: Any, *, skip_bad: bool = False) -> Spade:
        """Learn what good looks like: extract and keep the features of `normal_images`. Returns self.

        normal_images: a path, folder, glob, PIL image, numpy (H, W, 3) uint8, a list of those, a tensor (N, 3, H, W) in
        [0, 1] or uint8, or a DataLoader. skip_bad: leave unreadable images out instead of raising.
        """
        source = self._open(normal_images, skip_bad, "normal_images")
        parts = []
        with progress_bar(_length(source), "fit", self.progress) as bar:
            for batch in source:
                embedding, pyramid = self.backbone(batch.pixels)
                parts.append((embedding.cpu(), [level.cpu() for level in pyramid], batch.names))
                bar.update(len(batch.names))
        self.skipped = list(source.skipped)
        bank = Bank.collect(parts)
        self._check_kappa(bank)
        self.bank = bank
        self._told_few_images = False
        return self

    # -- scoring

    def score(self, test_images: Any, *, skip_bad: bool = False) -> Result:
        """Score images; the same kinds of `test_images` as `fit` takes. Returns a Result."""
        bank = self._fitted()
        source = self._open(test_images, skip_bad, "test_images")
        scored = list(self._score_source(source, bank))
        return Result(scored, bank.names, list(source.skipped))

    def score_batches(self, test_images: Any, *, skip_bad: bool = False) -> Iterator[ScoredImage]:
        """Like `score`, one image at a time, so that memory does not grow with the number of images."""
        bank = self._fitted()
        return self._score_source(self._open(test_images, skip_bad, "test_images"), bank)

    def _score_source(self, source: ImageSource, bank: Bank) -> Iterator[ScoredImage]:
        with progress_bar(_length(source), "score", self.progress) as bar:
            for batch in source:
                yield from self._score_batch(batch, bank)
                bar.update(len(batch.names))
        self.skipped = list(source.skipped)

    def _score_batch(self, batch: ImageBatch, bank: Bank) -> list[ScoredImage]:
        embeddings, pyramid = self.backbone(batch.pixels)
        embeddings, pyramid = embeddings.cpu(), [level.cpu() for level in pyramid]
        for i, (mine, stored) in enumerate(zip(pyramid, bank.pyramid, strict=True)):
            if mine.shape[1:] != stored.shape[1:]:
                raise InputError(
                    f"test_images give {tuple(mine.shape[1:])} features at level {i}, the normal images gave "
                    f"{tuple(stored.shape[1:])}; both need the same resize and crop"
                )
        k, k_image = self._neighbor_counts(bank)
        distances, neighbors = bank.nearest(embeddings, max(k, k_image))
        squared, indices = pyramid_knn(
            pyramid, bank.pyramid, self.kappa, gallery_index=neighbors[:, :k].contiguous(), upsample=self.upsample,
            precision=self.precision,
        )
        raw = squared.mean(dim=-1)  # eq. 3
        crop_size = tuple(batch.pixels.shape[-2:])
        smoothed = maps.smooth(maps.upsample(raw, crop_size), self.sigma)
        height, width = raw.shape[-2:]
        nearest = indices[..., 0].numpy()
        image, place = nearest // (height * width), nearest % (height * width)
        scored = []
        for i, name in enumerate(batch.names):
            score = self._image_score(distances[i, :k_image], smoothed[i])
            if self.keep_crop:
                shown, picture = smoothed[i], _Picture(batch.pixels[i])
            else:
                shown, picture = maps.place_in_image(smoothed[i], batch.crops[i], batch.sizes[i]), batch.originals[i]
            scored.append(
                ScoredImage(
                    name=name,
                    score=score,
                    anomaly_map=shown.numpy(),
                    neighbors=neighbors[i, :k].numpy(),
                    neighbor_distances=distances[i, :k].numpy(),
                    matched_image=image[i],
                    matched_y=place[i] // width,
                    matched_x=place[i] % width,
                    picture=picture,
                )
            )
        return scored

    def _image_score(self, distances: torch.Tensor, smoothed: torch.Tensor) -> float:
        if self.image_score == "knn":
            return float(distances.double().mean())
        if self.image_score == "max":
            return float(smoothed.max())
        count = max(1, smoothed.numel() // 100)
        return float(smoothed.flatten().topk(count).values.double().mean())

    # -- saving

    def options(self) -> dict[str, Any]:
        """The settings that scores depend on, as plain values."""
        names = ("k", "k_image", "kappa", "upsample", "sigma", "image_score", "resize", "crop", "keep_crop", "precision")
        return {name: getattr(self, name) for name in names}

    def save(self, path: str | Path) -> None:
        """Write the fitted model as one safetensors file, atomically."""
        bank = self._fitted()
        model_file.write_model(path, bank, self.options(), self.backbone.spec())

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
    ) -> Spade:
        """Read a model that `save` wrote. A model of your own backbone needs that module as `backbone`.

        Raises MissingFileError, or ModelFileError naming what does not fit.
        """
        bank, header = model_file.read_model(path)
        device = _pick_device(device)
        restored = backbone_from_spec(header["backbone"], module=backbone, weights=weights, device=device)
        try:
            model = cls(
                restored,
                device=device,
                batch_size=batch_size,
                num_workers=num_workers,
                progress=progress,
                **header["options"],
            )
        except TypeError as error:
            raise ModelFileError(f"path: {path} holds options that this fastspade does not know: {error}") from error
        model._check_kappa(bank)
        model.bank = bank
        return model

    # -- helpers

    def _open(self, images: Any, skip_bad: bool, argument: str) -> ImageSource:
        return open_source(
            images,
            resize=self.resize,
            crop=self.crop,
            batch_size=self.batch_size,
            skip_bad=skip_bad,
            num_workers=self.num_workers,
            argument=argument,
        )

    def _fitted(self) -> Bank:
        if self.bank is None:
            raise InputError("this Spade has no normal images yet; call fit(normal_images) or Spade.load(path) first")
        return self.bank

    def _neighbor_counts(self, bank: Bank) -> tuple[int, int]:
        wanted = self.k, self.k if self.k_image is None else self.k_image
        if max(wanted) > len(bank) and not self._told_few_images:
            self._told_few_images = True
            warnings.warn(f"k={max(wanted)} but there are {len(bank)} normal images; using all of them", stacklevel=4)
        return min(wanted[0], len(bank)), min(wanted[1], len(bank))

    def _check_kappa(self, bank: Bank) -> None:
        pixels = min(self.k, len(bank)) * bank.pyramid[0].shape[2] * bank.pyramid[0].shape[3]
        if self.kappa > pixels:
            raise InputError(f"kappa must be at most the gallery's {pixels} pixels, got {self.kappa}")


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DtypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < 1:
        raise InputError(f"{name} must be at least 1, got {value}")


def _pick_device(device: str | torch.device | None) -> torch.device:
    if device is not None:
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise InputError(f"device must be a torch device such as 'cpu' or 'cuda', got {device!r}") from error
    from fastspade.info import build_info

    return torch.device("cuda" if build_info()["cuda_architectures"] and torch.cuda.is_available() else "cpu")


def _length(source: ImageSource) -> int | None:
    try:
        return len(source)
    except TypeError:
        return None


class _Picture:
    """A crop kept as 8-bit pixels, shown when called."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self._pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()

    def __call__(self) -> Image.Image:
        from PIL import Image

        return Image.fromarray(self._pixels)
