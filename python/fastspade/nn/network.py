"""A backbone as a torch.nn.Module: the same features, in a form that torch can trace."""

from __future__ import annotations

import contextlib
import copy
import threading
from functools import partial
from typing import Any

import torch
from torch import nn

from fastspade.backbones import Backbone

# Taken around an eager pass through a network whose hooks write to one place; a traced graph has no such state.
_guard = threading.Lock()


class Network(nn.Module):
    """A copy of a backbone's network that can be traced.

    forward(images (B, 3, H, W) in [0, 1]) -> embedding (B, E) and pyramid of (B, C_l, H_l, W_l), all float32.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = copy.deepcopy(backbone.module).requires_grad_(False)
        self.register_buffer("shift", backbone.shift.clone())
        self.register_buffer("scale", backbone.scale.clone())
        self.reader = backbone.reader
        self._seen: dict[str, torch.Tensor] = {}
        for name in self.reader.wanted:
            self.network.get_submodule(name).register_forward_hook(partial(self._keep, name))

    def train(self, mode: bool = True) -> Network:
        """Always in evaluation mode: the bank's features and the images' must come from the same network."""
        return super().train(False)

    def _keep(self, name: str, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if name not in self._seen:
            self._seen[name] = output.to(torch.float32, copy=True)  # a copy, since an in-place ReLU may follow

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if torch.compiler.is_compiling() or images.device.type == "cuda":
            return self._read(images)
        # One at a time, as Spade has them: a network's last bits depend on the shape of the batch.
        parts = [self._read(image) for image in images.split(1)]
        pyramid = [torch.cat(level) for level in zip(*(part[1] for part in parts), strict=True)]
        return torch.cat([part[0] for part in parts]), pyramid

    def _read(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As Backbone, but that finite features are left to the search: a graph cannot stop on its data."""
        return self.reader.read(self.network, self._outputs(images), images)

    def _outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The wanted modules' outputs, normalised and run as Backbone does."""
        dtype = next((p.dtype for p in self.network.parameters() if p.dtype.is_floating_point), torch.float32)
        normalised = ((images.float() - self.shift) / self.scale).to(dtype).contiguous(memory_format=torch.channels_last)
        if torch.compiler.is_compiling():
            return self._pass(normalised)
        with _guard, torch.no_grad():
            return self._pass(normalised)

    def _pass(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        on_cuda = images.device.type == "cuda"
        self._seen.clear()  # a module that others' outputs were taken through has run since
        with torch.autocast("cuda", torch.float16) if on_cuda else contextlib.nullcontext():
            self.network(images)
        outputs = dict(self._seen)
        self._seen.clear()
        return outputs
