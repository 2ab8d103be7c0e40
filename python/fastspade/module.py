"""SPADE as one torch module: images in, scores and maps out; for torch.compile, torch.export and serving.

A `Spade` reads files and keeps every detail of a match; a `SpadeModule` is only what runs between the prepared images and
the map, with the bank as its buffers, so that torch can see all of it as one graph.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
import threading
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastspade._version import __version__
from fastspade.backbones import Backbone
from fastspade.errors import InputError
from fastspade.maps import gaussian_matrix
from fastspade.search import knn, ops
from fastspade.spade import Spade

__all__ = ["SpadeModule", "export"]

METADATA = "fastspade.json"  # its name among an exported program's extra files
OPERAND = "float16"  # what the CUDA search's first pass multiplies

# Taken around an eager pass through a network whose hooks write to one place; a traced graph has no such state.
_network_guard = threading.Lock()


class SpadeModule(nn.Module):
    """A fitted Spade as a torch.nn.Module.

    forward(images): (B, 3, crop, crop) floating in [0, 1], already resized and cropped, on the module's device ->
    image_scores (B,) float32 and anomaly_maps (B, crop, crop) float32, as Spade.score gives them with keep_crop=True.

    Runs eagerly, under torch.compile(fullgraph=True), and exports with torch.export. The network is copied; the bank's
    tensors are shared. On CUDA the 16-bit form of the bank that the search multiplies is a buffer too, made again when
    the module is moved. Not for image_score="reweighted" or a window, whose work depends on the images' content.

    Raises InputError where the Spade is not fitted or has one of those options.
    """

    def __init__(self, model: Spade) -> None:
        super().__init__()
        if model.bank is None:
            raise InputError("model has no normal images yet; call fit(normal_images) first")
        bank = model.bank.snapshot
        for name, refused in (("image_score", model.image_score == "reweighted"), ("window", model.window is not None)):
            if refused:
                given = f"{name}={getattr(model, name)!r}"
                raise InputError(f"model has {given}, which cannot be a module: its work depends on the images' content")
        self.k, self.k_image = (min(k, len(bank)) for k in (model.k, model.k_image or model.k))
        self.kappa, self.upsample, self.precision = model.kappa, model.upsample, model.precision
        self.image_score, self.local_average, self.crop = model.image_score, model.local_average, model.crop
        self.names = bank.names
        self.features = _Features(model.backbone)
        device = model.device
        self.register_buffer("embeddings", bank.embeddings.to(device))
        self._levels = [f"level{i}" for i in range(len(bank.pyramid))]
        order = torch.channels_last if device.type == "cuda" else torch.preserve_format
        for name, level in zip(self._levels, bank.pyramid, strict=True):
            self.register_buffer(name, level.to(device, memory_format=order))
        self.register_buffer("smoothing", gaussian_matrix(model.crop, model.sigma).to(device))
        self.register_buffer("prepared", None)
        self._prepare()
        self.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        size = (self.crop, self.crop)
        if images.shape[-2:] != size:
            raise InputError(f"images must have shape (B, 3, {self.crop}, {self.crop}), got {tuple(images.shape)}")
        embeddings, pyramid = self.features(images)
        if self.local_average:
            pyramid = [nn.functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) for x in pyramid]
        distances, neighbors = knn(embeddings, self.embeddings, max(self.k, self.k_image))
        used = neighbors[:, : self.k].contiguous()
        squared, _, _ = ops.search(
            pyramid, self._bank(), self.prepared, self.kappa, used, self.upsample, self.precision, OPERAND
        )
        raw = squared.mean(dim=-1).view(-1, 1, *pyramid[0].shape[-2:])  # eq. 3
        maps = nn.functional.interpolate(raw, size=size, mode="bilinear", align_corners=False)[:, 0]
        maps = self.smoothing @ (maps @ self.smoothing.T)
        return self._image_scores(distances[:, : self.k_image], maps), maps

    def _image_scores(self, distances: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        if self.image_score == "knn":
            return distances.double().mean(dim=1).float()
        if self.image_score == "max":
            return maps.amax(dim=(1, 2))
        count = max(1, self.crop * self.crop // 100)
        return maps.flatten(1).topk(count).values.double().mean(dim=1).float()

    def _bank(self) -> list[torch.Tensor]:
        return [getattr(self, name) for name in self._levels]

    def _prepare(self) -> None:
        """The bank's 16-bit form where it is searched on CUDA."""
        on_cuda = self.embeddings.device.type == "cuda"
        self.prepared = ops.prepare_gallery(self._bank(), self.upsample, OPERAND) if on_cuda else None

    def _apply(self, fn: Any, recurse: bool = True) -> SpadeModule:
        super()._apply(fn, recurse)
        self._prepare()  # moved or converted levels
        return self


class _Features(nn.Module):
    """A backbone whose forward pass can be traced: embedding (B, E) and pyramid of (B, C_l, H_l, W_l), both float32."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = copy.deepcopy(backbone._module).requires_grad_(False)
        self.register_buffer("shift", backbone._shift.clone())
        self.register_buffer("scale", backbone._scale.clone())
        self.wanted = list(dict.fromkeys([*backbone.layers, backbone.embedding]))
        self._seen: dict[str, torch.Tensor] = {}
        for name in self.wanted:
            self.network.get_submodule(name).register_forward_hook(partial(self._keep, name))
        self._reader = _Reader(backbone, self)

    def _keep(self, name: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if name not in self._seen:
            self._seen[name] = output.to(torch.float32, copy=True)  # a copy, since an in-place ReLU may follow

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if torch.compiler.is_compiling() or images.device.type == "cuda":
            return self._reader(images)
        # One at a time, as Spade has them: a network's last bits depend on the shape of the batch.
        parts = [self._reader(image) for image in images.split(1)]
        pyramid = [torch.cat(level) for level in zip(*(part[1] for part in parts), strict=True)]
        return torch.cat([part[0] for part in parts]), pyramid

    def outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The wanted modules' outputs, normalised and run as Backbone does."""
        dtype = next((p.dtype for p in self.network.parameters() if p.dtype.is_floating_point), torch.float32)
        normalised = ((images.float() - self.shift) / self.scale).to(dtype).contiguous(memory_format=torch.channels_last)
        if torch.compiler.is_compiling():
            return self._pass(normalised)
        with _network_guard, torch.no_grad():
            return self._pass(normalised)

    def _pass(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        on_cuda = images.device.type == "cuda"
        with torch.autocast("cuda", torch.float16) if on_cuda else contextlib.nullcontext():
            self.network(images)
        outputs = dict(self._seen)
        self._seen.clear()
        return outputs


class _Reader(Backbone):
    """The backbone's own reading of its layers' outputs, over a forward pass that can be traced."""

    def __init__(self, backbone: Backbone, features: _Features) -> None:
        self.__dict__.update(backbone.__dict__)
        self._module, self._features = features.network, features
        self._running = contextlib.nullcontext()  # _Features takes its own lock, where there is something to guard

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_running": contextlib.nullcontext()}

    def _run(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._features.outputs(images)

    def _check_finite(self, features: dict[str, torch.Tensor]) -> None:
        """Left to the search: a graph cannot stop on its data."""


def export(model: Spade, path: str | os.PathLike[str]) -> None:
    """Write a fitted Spade as one file that torch.export.load reads, for any batch size.

    path: a .pt2 file to write; it appears only when complete. The program runs on the model's device, and needs
    fastspade where it is loaded (`import fastspade.search` registers the search with torch), but not the network's code.
    Its extra file "fastspade.json" holds the options, the thresholds and the normal images' names.

    Raises InputError as SpadeModule does.
    """
    target = Path(path)
    if target.suffix != ".pt2":
        raise InputError(f"path must end in .pt2, as torch.export's files do; got {target.name}")
    if not target.parent.is_dir():
        raise InputError(f"path: the folder {target.parent} does not exist")
    module = SpadeModule(model)
    example = torch.zeros(2, 3, model.crop, model.crop, device=model.device)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
    known = None if model.threshold is None else model.threshold.as_dict()
    metadata = {"fastspade": __version__, "options": model.options(), "threshold": known, "names": list(module.names)}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fastspade-") as folder, warnings.catch_warnings():
        # Channels-last weights fill their storage in another order; they are stored and restored right all the same.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        aside = Path(folder, target.name)
        torch.export.save(program, aside, extra_files={METADATA: json.dumps(metadata)})
        os.replace(aside, target)
