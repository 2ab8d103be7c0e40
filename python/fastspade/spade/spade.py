"""SPADE itself: fit on normal images, score test images (Cohen and Hoshen, arXiv 2005.02357)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastspade import checks
from fastspade.backbones import Backbone, load_backbone
from fastspade.backbones.extractor import Extractor, Features
from fastspade.backbones.foreground import Foreground
from fastspade.bank import Bank, Snapshot, model_file
from fastspade.bank.snapshot import check_storage_dtype
from fastspade.errors import InputError
from fastspade.files.home import user_path
from fastspade.images import ImageSource
from fastspade.search.cuda import has_cuda_engine
from fastspade.search.device import pick_device
from fastspade.search.levels import Shape
from fastspade.spade import calibration, saved
from fastspade.spade.device_bank import DeviceBank
from fastspade.spade.leave_one_out import border_profile, current_ceiling
from fastspade.spade.matching import Matcher
from fastspade.spade.options import Options, backbone_of, given, names, takes_options
from fastspade.spade.origins import Origins
from fastspade.spade.relative import Ceiling
from fastspade.spade.result import Result, ScoredImage
from fastspade.spade.scoring import Scoring
from fastspade.spade.threshold import Threshold
from fastspade.torch_defaults import torch_defaults

if TYPE_CHECKING:
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

    backbone: "wide_resnet50_2" (the paper's), "resnet18", "resnet50", "efficientnet_lite0", "timm:NAME", or any torch.nn.Module
        with `layers` naming the modules whose outputs are the pyramid, or a Backbone from fastspade.backbones.load_backbone.
        None: the preset's, which is the paper's but for preset "rad".
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
    def __init__(self, backbone: str | torch.nn.Module | Backbone | None = None, **options: Unpack[OptionsDict]) -> None:
        self.settings = Options(**given(dict(options), "Spade()", loaded=isinstance(backbone, Backbone)))
        self.device = pick_device(self.settings.device)
        self.backbone: Backbone = load_backbone(
            backbone_of(dict(options)) if backbone is None else backbone,
            layers=self.layers, embedding=self.embedding, cosine=self.cosine, weights=self.weights, device=self.device,
        )  # fmt: skip
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
        self.threshold = calibration.calibrated(self, target_fpr, pixel_target_fpr)
        return self.threshold

    @torch_defaults()
    def normal_scores(self) -> np.ndarray:
        """(N,) float64: the image score of every normal image against all the others, from the features kept.

        Duplicates match each other, so that their scores are low; a warning names a pair. Raises InputError where there is only one.
        """
        return calibration.normal_scores(self)

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
        scored = list(Scoring(self, bank, *self._thresholds(bank, threshold, pixel_threshold)).run(source))
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
        return Scoring(self, bank, *self._thresholds(bank, threshold, pixel_threshold)).run(source)

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
        return saved.record(self)

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
        return saved.load(cls, user_path(path), backbone, weights, given(running, "Spade.load()", "running"))

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

    def features(self, pixels: torch.Tensor, inside: torch.Tensor | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Embeddings and pyramid of a batch, on the search's device. inside: its region of interest."""
        embeddings, pyramid = self.extractor(pixels, inside)
        return embeddings.to(self.search_device), [level.to(self.search_device) for level in pyramid]

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
        same = {
            name: getattr(self, name)
            for name in ("kappa", "upsample", "sigma", "truncate", "image_score", "window", "per_level", "precision")
        }
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
    backbone: str | torch.nn.Module | Backbone | None = None,
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
