"""Both stages of SPADE, the map and the image score as one torch module, with the bank as its buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fastspade.backbones.border import continued
from fastspade.backbones.extractor import Features, averaged
from fastspade.errors import InputError
from fastspade.maps.process import gaussian_matrix
from fastspade.nn.network import Network
from fastspade.search import knn, ops
from fastspade.spade import Spade
from fastspade.spade.border import divisor, profile_of
from fastspade.spade.image_score import image_scores
from fastspade.spade.leave_one_out import evenly_spread
from fastspade.spade.matching import anomaly_maps, without_itself
from fastspade.spade.relative import by_cell, ceiling_of, relative_scores
from fastspade.torch_defaults import eager_torch_defaults, torch_defaults

OPERAND = "float16"  # what the CUDA search's first pass multiplies


class Scorer(nn.Module):
    """The options and the network of a Spade; `remember` gives it the bank.

    Buffers: embeddings (N, E); level0, level1, ... (N, C_l, H_l, W_l); smooth_rows (H, H) and smooth_columns (W, W), the
    smoothing of a map; with a mirrored border also border (H, W), what maps are divided by; for relative image scores ceiling
    (h, w); all empty until there is a bank. On CUDA also prepared, the 16-bit form of the levels that the search multiplies:
    made again when the module is moved or loaded, and no part of the state dict.
    """

    embeddings: torch.Tensor
    smooth_rows: torch.Tensor
    smooth_columns: torch.Tensor
    border: torch.Tensor
    ceiling: torch.Tensor
    prepared: torch.Tensor | None

    def __init__(self, model: Spade) -> None:
        super().__init__()
        refused = {
            "image_score": model.image_score == "reweighted",
            "window": model.window is not None,
            "per_level": model.per_level,
        }
        for name, is_so in refused.items():
            if is_so:
                given = f"{name}={getattr(model, name)!r}"
                raise InputError(f"model has {given}, which cannot be a module: its work depends on the images' content")
        if model.roi is not None:
            raise InputError("model has a roi, which cannot be a module: masks belong to images, not to pixels")
        if model.tile is not None:
            raise InputError(
                f"model has tile={model.tile}, which cannot be a module: how many tiles there are depends on the images"
            )
        self.k, self.k_image = model.k, model.k_image or model.k
        self.kappa, self.upsample, self.precision = model.kappa, model.upsample, model.precision
        self.sigma, self.truncate = model.sigma, model.truncate
        self.image_score, self.local_average = model.image_score, model.local_average
        self.margin = model.new_extractor().margin
        self.network = Network(model.backbone)
        self._levels = [f"level{i}" for i in range(len(model.backbone.layers))]
        border = ["border"] if self.margin else []
        ceiling = ["ceiling"] if self.image_score == "relative" else []
        for name in ("embeddings", *self._levels, "smooth_rows", "smooth_columns", *border, *ceiling):
            self.register_buffer(name, torch.empty(0, device=model.device))
        self.register_buffer("prepared", None, persistent=False)
        self.register_load_state_dict_post_hook(_prepare_loaded)  # type: ignore[no-untyped-call, unused-ignore]  # torch's

    @torch_defaults()
    def remember(
        self, embeddings: torch.Tensor, pyramid: Sequence[torch.Tensor], size: tuple[int, int],
        ceiling: torch.Tensor | None = None, border: torch.Tensor | None = None,
        mirrored: Sequence[tuple[int, Features]] = (),
    ) -> None:  # fmt: skip
        """Take the features of N normal images, which were size (H, W), as the bank. ceiling: (h, w) of relative scores, made
        where it is not given. border: the profile that maps are divided by; None: that
        of mirrored normal images, where there are any."""
        device = self.embeddings.device
        self.embeddings = embeddings.to(device)
        for name, level in zip(self._levels, pyramid, strict=True):
            setattr(self, name, level.to(device))
        self.smooth_rows, self.smooth_columns = (gaussian_matrix(side, self.sigma, self.truncate).to(device) for side in size)
        self._prepare()
        if self.margin:
            profile = self._profile(mirrored) if border is None else border
            self.border = divisor(profile, (pyramid[0].shape[-2], pyramid[0].shape[-1]), size).to(device)
        if self.image_score == "relative":
            self.ceiling = self._ceiling() if ceiling is None else ceiling.to(device)

    def _profile(self, mirrored: Sequence[tuple[int, Features]]) -> torch.Tensor:
        """As Spade measures it."""
        device, cells = self.embeddings.device, []
        for number, one in mirrored:
            pyramid = [level.to(device) for level in one.pyramid]
            itself = torch.tensor([number], device=device) if len(self.embeddings) > 1 else None
            _, maps = self._match(one.embeddings.to(device), pyramid, itself, border=False)
            cells.append(by_cell(maps, (pyramid[0].shape[-2], pyramid[0].shape[-1])))
        return profile_of(torch.cat(cells)) if cells else torch.ones(1)

    def _ceiling(self) -> torch.Tensor:
        """As Spade finds it: of the normal images' maps, each matched against all the others."""
        levels = self._bank()
        if len(self.embeddings) == 1:
            return torch.ones(levels[0].shape[-2:], device=self.embeddings.device)
        cells = []
        for one in evenly_spread(len(self.embeddings)).to(self.embeddings.device).split(1):
            pyramid = [level[one].float() for level in levels]
            _, maps = self._match(self.embeddings[one], pyramid, itself=one)
            cells.append(by_cell(maps, (pyramid[0].shape[-2], pyramid[0].shape[-1])))
        return ceiling_of(torch.cat(cells))

    @eager_torch_defaults
    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(B, 3, H, W) in [0, 1] -> embeddings (B, E) and pyramid of (B, C_l, H_l, W_l), as the bank has them."""
        embeddings, pyramid = continued(self.network, images, self.margin)
        return embeddings, averaged(pyramid) if self.local_average else pyramid

    @eager_torch_defaults
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) in [0, 1] -> image scores (B,) and anomaly maps (B, H, W), float32."""
        normal, size = self.embeddings.shape[0], (int(self.smooth_rows.shape[0]), int(self.smooth_columns.shape[0]))
        if normal == 0:
            raise InputError("there are no normal images yet: fit first")
        if images.ndim != 4 or images.shape[1] != 3 or tuple(images.shape[-2:]) != size:
            raise InputError(f"images must have shape (B, 3, {size[0]}, {size[1]}), got {tuple(images.shape)}")
        embeddings, pyramid = self.features(images)
        distances, maps = self._match(embeddings, pyramid)
        if self.image_score == "relative":
            cells = by_cell(maps, (pyramid[0].shape[-2], pyramid[0].shape[-1]))
            return relative_scores(cells, self.ceiling).float(), maps
        return image_scores(self.image_score, distances[:, : self.k_image], maps).float(), maps

    def _match(
        self, embeddings: torch.Tensor, pyramid: list[torch.Tensor], itself: torch.Tensor | None = None, border: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared distances to the nearest normal images, and maps (B, H, W). itself: the normal images that these are, (B,).
        border: divide maps by the border's profile."""
        usable = self.embeddings.shape[0] - (itself is not None)
        wanted = min(max(self.k, self.k_image), usable)
        distances, neighbors = knn(embeddings, self.embeddings, wanted + (itself is not None))
        if itself is not None:
            distances, neighbors = without_itself(distances, neighbors, itself)
        used = neighbors[:, : min(self.k, usable)].contiguous()
        squared, _, _ = ops.search(pyramid, self._bank(), self.prepared, self.kappa, used, self.upsample, self.precision, OPERAND)
        squared = squared.view(embeddings.shape[0], *pyramid[0].shape[-2:], self.kappa)
        size = (int(self.smooth_rows.shape[0]), int(self.smooth_columns.shape[0]))
        maps = anomaly_maps(squared, size, self.smooth_rows, self.smooth_columns)
        return distances, maps / self.border if self.margin and border else maps

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
