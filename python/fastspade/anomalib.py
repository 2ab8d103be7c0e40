"""SPADE as a model of anomalib (extra `anomalib`): trained, tested and used by its Engine like its own models.

A PatchCore user imports `from fastspade.anomalib import Spade` in place of `from anomalib.models import Patchcore`, and makes
a `Spade()` where it was a `Patchcore()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastspade.backbones import Backbone, load_backbone
from fastspade.backbones.extractor import Mirrored
from fastspade.bank.snapshot import check_storage_dtype, stored
from fastspade.errors import InputError, MissingDependencyError
from fastspade.nn.scorer import Scorer
from fastspade.spade import Spade as FastSpade

try:
    from anomalib import LearningType
    from anomalib.data import Batch, InferenceBatch
    from anomalib.metrics import Evaluator
    from anomalib.models.components import AnomalibModule, DynamicBufferMixin, MemoryBankMixin
    from anomalib.post_processing import PostProcessor
    from anomalib.pre_processing import PreProcessor
    from anomalib.visualization import Visualizer
    from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize
except ImportError as error:
    raise MissingDependencyError(
        f'fastspade.anomalib needs anomalib 2.7 or newer ({error}); install the extra: pip install "fastspade[anomalib]"'
    ) from error

__all__ = ["Spade", "SpadeModel"]

_SIZES = "the pre-processor resizes and crops: pass one, as Spade.configure_pre_processor(image_size, center_crop_size) makes it"
_DATA = "the datamodule's own setting does it"
_ENGINE = "give it to anomalib's Engine"
_CONTENT = "an anomalib model is handed one batch of tensors, and this depends on whole images or on files: use fastspade.Spade"
_BACKBONE = "make a backbone that has it: fastspade.backbones.load_backbone"
_ELSEWHERE = {
    **dict.fromkeys(("resize", "crop", "keep_crop"), _SIZES),
    **dict.fromkeys(("batch_size", "num_workers", "max_pixels"), _DATA),
    **dict.fromkeys(("device", "progress"), _ENGINE),
    **dict.fromkeys(("tile", "overlap", "aligned", "roi", "window", "per_level", "truncate"), _CONTENT),
    **dict.fromkeys(("embedding", "cosine"), _BACKBONE),
    "augment": "put turned copies among the normal images, or use fastspade.Spade (train_augmentations turn images, they add none)",
    "memory_limit": "the bank is a buffer of the model and is held whole: storage_dtype='float16' halves it, or use fastspade.Spade",
    "preset": "give its options one by one; k_image=None, image_score='knn' and reflect_border=False are the paper's",
}  # options of `fastspade.Spade` that this model cannot have -> what to do

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Spade(MemoryBankMixin, AnomalibModule):
    """SPADE (arXiv 2005.02357) as a lightning module of anomalib. One epoch collects features; nothing is trained.

    backbone, layers, weights: as of `fastspade.Spade`. A module or Backbone of your own is not kept in checkpoints: pass it
        again to load_from_checkpoint.
    k to storage_dtype: options of `fastspade.Spade`, by the same names; image_score "relative", "knn", "max" or "top1%".
        The defaults are those of fastspade's preset "default"; k_image=None and image_score="knn" make them the paper's.
    others: none; the other options of `fastspade.Spade` raise InputError, which says where they belong.
    pre_processor, post_processor, evaluator, visualizer: as of every anomalib model. The default pre-processor resizes whole
        images to 256 x 256, or the backbone's own size, and normalises as the backbone wants it; one of your own must
        normalise too, as for anomalib's models. For images that are not square give it their aspect ratio
        (configure_pre_processor), or they are distorted.

    pred_score is the image score and anomaly_map (B, 1, H, W) the map of what the pre-processor let through; they are
    squared distances, or what image_score makes of them, until anomalib's post-processor scales them to [0, 1].
    """

    def __init__(
        self,
        backbone: str | nn.Module | Backbone = "wide_resnet50_2",
        layers: Sequence[str] | None = None,
        *,
        k: int = 50,
        k_image: int | None = 3,
        kappa: int = 1,
        upsample: str = "bilinear",
        sigma: float = 4.0,
        image_score: str = "relative",
        local_average: bool = False,
        reflect_border: bool = True,
        precision: str = "exact",
        storage_dtype: str = "float32",
        weights: str | Path | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        **others: Any,
    ) -> None:
        for name, value in others.items():
            if name not in _ELSEWHERE:
                raise TypeError(f"Spade() got an unexpected keyword argument {name!r}")
            raise InputError(f"{name}={value!r} is not for anomalib's model: {_ELSEWHERE[name]}")
        source = load_backbone(backbone, layers=layers, weights=weights)
        if pre_processor is True:
            size = source.fitting.shared([(1, 1)])
            pre_processor = self.configure_pre_processor(size, mean=source.spec()["mean"], std=source.spec()["std"])
        super().__init__(pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer)
        if isinstance(backbone, (nn.Module, Backbone)):  # a checkpoint holds plain values only
            for kept in (self._hparams, self._hparams_initial):
                kept.pop("backbone", None)
        # The pre-processor normalises, as for every model of anomalib; the backbone must not do it again.
        read = load_backbone(
            source.module, layers=source.layers, embedding=source.embedding, cosine=source.cosine, mean=(0, 0, 0), std=(1, 1, 1)
        )
        options: dict[str, Any] = dict(k=k, k_image=k_image, kappa=kappa, upsample=upsample, sigma=sigma)
        options |= dict(image_score=image_score, local_average=local_average, reflect_border=reflect_border)
        options |= dict(precision=precision, storage_dtype=storage_dtype)
        self.model = SpadeModel(FastSpade(read, device="cpu", progress=False, **options))

    @classmethod
    def configure_pre_processor(
        cls,
        image_size: tuple[int, int] = (256, 256),
        center_crop_size: tuple[int, int] | None = None,
        *,
        mean: Sequence[float] = _IMAGENET_MEAN,
        std: Sequence[float] = _IMAGENET_STD,
    ) -> PreProcessor:
        """Resize, centre-crop where center_crop_size is given (the paper's is (224, 224)), and normalise. mean, std: of the
        backbone's normalisation, by default ImageNet's."""
        steps: list[nn.Module] = [Resize(image_size, antialias=True)]
        if center_crop_size is not None:
            if center_crop_size[0] > image_size[0] or center_crop_size[1] > image_size[1]:
                raise InputError(f"center_crop_size must fit in image_size {image_size}, got {center_crop_size}")
            steps.append(CenterCrop(center_crop_size))
        return PreProcessor(transform=Compose([*steps, Normalize(mean=list(mean), std=list(std))]))

    @staticmethod
    def configure_post_processor() -> PostProcessor:
        """anomalib's own: scores scaled by those of the validation set, thresholds by the best F1 there."""
        return PostProcessor()

    @staticmethod
    def configure_optimizers() -> None:
        """Nothing is optimised."""

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """One pass over the training images, on one device."""
        return {"gradient_clip_val": 0, "max_epochs": 1, "num_sanity_val_steps": 0, "devices": 1}

    @property
    def learning_type(self) -> LearningType:
        """One class: normal images alone."""
        return LearningType.ONE_CLASS

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Keep the features of a batch. Returns a loss that lightning asks for and nothing depends on."""
        self.model.collect(batch.image)
        return torch.tensor(0.0, requires_grad=True, device=self.device)

    def fit(self) -> None:
        """Make the collected features the memory bank; called by anomalib when the epoch ends."""
        self.model.fit()

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:
        """The batch with scores and maps added."""
        return batch.update(**self.model(batch.image)._asdict())


class SpadeModel(DynamicBufferMixin, Scorer):
    """The torch model: normalised images (B, 3, H, W) -> InferenceBatch with pred_score (B,) and anomaly_map (B, 1, H, W)."""

    def __init__(self, model: FastSpade) -> None:
        super().__init__(model)
        self._collected: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
        self._mirrored = Mirrored()
        self._size: tuple[int, int] | None = None
        self._storage = check_storage_dtype(model.storage_dtype)
        for name in self._levels:  # a checkpoint is loaded into buffers of the type that they have
            setattr(self, name, getattr(self, name).to(self._storage))

    def collect(self, images: torch.Tensor) -> None:
        """Keep the features of normal images; all must have one size."""
        size = (images.shape[-2], images.shape[-1])
        if self._collected and size != self._size:
            raise InputError(f"images must have one size after pre-processing: {self._size} before, now {size}")
        self._size = size
        self._collected.append(self.features(images))
        if self.margin:
            self._mirrored.take(self.features, images, [""] * len(images))

    def fit(self) -> None:
        """Make what was collected the bank."""
        if self._size is None or not self._collected:
            raise InputError("there are no normal images: the training data is empty")
        embeddings = torch.cat([part[0] for part in self._collected])
        pyramid = [torch.cat(level) for level in zip(*(part[1] for part in self._collected), strict=True)]
        self._collected.clear()
        names = [f"normal image {i}" for i in range(len(embeddings))]
        self.remember(embeddings, stored(pyramid, self._storage, names), self._size, mirrored=self._mirrored.found)
        self._mirrored = Mirrored()

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        scores, maps = super().forward(images)
        return InferenceBatch(pred_score=scores, anomaly_map=maps[:, None])
