"""Both stages of SPADE, the map and the image score as one torch module, with the bank as its buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fastspade.backbones.extractor import averaged
from fastspade.errors import InputError
from fastspade.maps.process import gaussian_matrix
from fastspade.nn.network import Network
from fastspade.search import knn, ops
from fastspade.spade import Spade
from fastspade.spade.image_score import image_scores
from fastspade.spade.matching import anomaly_maps

OPERAND = "float16"  # what the CUDA search's first pass multiplies


class Scorer(nn.Module):
    """The options and the network of a Spade; `remember` gives it the bank.

    Buffers: embeddings (N, E); level0, level1, ... (N, C_l, H_l, W_l); smooth_rows (H, H) and smooth_columns (W, W), the
    smoothing of a map; all empty until there is a bank. On CUDA also prepared, the 16-bit form of the levels that the
    search multiplies: made again when the module is moved or loaded, and no part of the state dict.
    """

    embeddings: torch.Tensor
    smooth_rows: torch.Tensor
    smooth_columns: torch.Tensor
    prepared: torch.Tensor | None

    def __init__(self, model: Spade) -> None:
        super().__init__()
        for name, refused in (("image_score", model.image_score == "reweighted"), ("window", model.window is not None)):
            if refused:
                given = f"{name}={getattr(model, name)!r}"
                raise InputError(f"model has {given}, which cannot be a module: its work depends on the images' content")
        self.k, self.k_image = model.k, model.k_image or model.k
        self.kappa, self.upsample, self.sigma, self.precision = model.kappa, model.upsample, model.sigma, model.precision
        self.image_score, self.local_average = model.image_score, model.local_average
        self.network = Network(model.backbone)
        self._levels = [f"level{i}" for i in range(len(model.backbone.layers))]
        for name in ("embeddings", *self._levels, "smooth_rows", "smooth_columns"):
            self.register_buffer(name, torch.empty(0, device=model.device))
        self.register_buffer("prepared", None, persistent=False)
        self.register_load_state_dict_post_hook(_prepare_loaded)  # type: ignore[no-untyped-call, unused-ignore]  # torch's

    def remember(self, embeddings: torch.Tensor, pyramid: Sequence[torch.Tensor], size: tuple[int, int]) -> None:
        """Take the features of N normal images, which were size (H, W), as the bank."""
        device = self.embeddings.device
        self.embeddings = embeddings.to(device)
        for name, level in zip(self._levels, pyramid, strict=True):
            setattr(self, name, level.to(device))
        self.smooth_rows, self.smooth_columns = (gaussian_matrix(side, self.sigma).to(device) for side in size)
        self._prepare()

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(B, 3, H, W) in [0, 1] -> embeddings (B, E) and pyramid of (B, C_l, H_l, W_l), as the bank has them."""
        embeddings, pyramid = self.network(images)
        return embeddings, averaged(pyramid) if self.local_average else pyramid

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) in [0, 1] -> image scores (B,) and anomaly maps (B, H, W), float32."""
        normal, size = self.embeddings.shape[0], (int(self.smooth_rows.shape[0]), int(self.smooth_columns.shape[0]))
        if normal == 0:
            raise InputError("there are no normal images yet: fit first")
        if images.ndim != 4 or images.shape[1] != 3 or tuple(images.shape[-2:]) != size:
            raise InputError(f"images must have shape (B, 3, {size[0]}, {size[1]}), got {tuple(images.shape)}")
        embeddings, pyramid = self.features(images)
        k, k_image = min(self.k, normal), min(self.k_image, normal)
        distances, neighbors = knn(embeddings, self.embeddings, max(k, k_image))
        used = neighbors[:, :k].contiguous()
        squared, _, _ = ops.search(
            pyramid, self._bank(), self.prepared, self.kappa, used, self.upsample, self.precision, OPERAND
        )
        squared = squared.view(images.shape[0], *pyramid[0].shape[-2:], self.kappa)
        maps = anomaly_maps(squared, size, self.smooth_rows, self.smooth_columns)
        return image_scores(self.image_score, distances[:, :k_image], maps).float(), maps

    def _bank(self) -> list[torch.Tensor]:
        return [getattr(self, name) for name in self._levels]

    def _prepare(self) -> None:
        """Lay the bank out for the device that it is on."""
        self.prepared = None
        if self.embeddings.device.type == "cuda" and len(self.embeddings):
            for name in self._levels:  # channels last, so that a pixel's vector is read whole
                setattr(self, name, getattr(self, name).contiguous(memory_format=torch.channels_last))
            self.prepared = ops.prepare_gallery(self._bank(), self.upsample, OPERAND)

    def _apply(self, fn: Any, recurse: bool = True) -> Scorer:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call, unused-ignore]  # torch's
        self._prepare()  # moved or converted levels
        return self


def _prepare_loaded(scorer: Scorer, _: Any) -> None:
    scorer._prepare()
