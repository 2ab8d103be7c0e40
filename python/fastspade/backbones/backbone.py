"""The forward pass: images -> one embedding for stage 1 and a feature pyramid for stage 2."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from fastspade.backbones.border import MARGIN
from fastspade.backbones.readout import Reader, Readout
from fastspade.errors import DtypeError, InputError
from fastspade.images.geometry import Fitting
from fastspade.torch_defaults import torch_defaults

__all__ = ["Backbone"]


class _AllSeen(Exception):
    """Raised by the last hook: what follows in the network (the classifier) is not needed."""


class Backbone:
    """Pretrained network that turns images into SPADE's features. Made by load_backbone.

    name: what was loaded. layers: the pyramid's modules, finest first. embedding: the module whose output, averaged
    over all positions, is the stage-1 embedding. cosine: whether features have unit length. image_size: (resize, crop)
    in pixels at which the makers of the weights evaluated them, to pass to Spade; None where unknown. device: where it
    runs. For what builds on a backbone: module, the network; reader, how its outputs are read; shift and scale (1, 3, 1, 1), its
    normalisation.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        layers: Sequence[str],
        embedding: str,
        mean: Sequence[float],
        std: Sequence[float],
        weights: str | None,
        device: torch.device,
        cosine: bool = False,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        self.name, self.device, self.image_size = name, device, image_size
        self.reader = Reader(Readout.of(module), tuple(layers), embedding, cosine)
        self._mean, self._std, self._weights = tuple(mean), tuple(std), weights
        self.module = module.eval().to(device).to(memory_format=torch.channels_last)
        self.shift = torch.tensor(self._mean, device=device).view(1, 3, 1, 1)
        self.scale = torch.tensor(self._std, device=device).view(1, 3, 1, 1)
        # The hooks of a forward pass sit on the module, which threads share.
        self._running: AbstractContextManager[bool | None] = threading.Lock()

    @property
    def fitting(self) -> Fitting:
        """What the network asks of its input's size. As many pixels as its makers evaluated it at, resized and not cropped."""
        side = 256 if self.image_size is None else self.image_size[0]
        return Fitting(self.reader.readout.multiple, side, self.reader.readout.fixed)

    @property
    def margin(self) -> int:
        """How many mirrored pixels around a picture keep its border from what the network pads with."""
        return MARGIN if self.reader.readout.pads else 0

    @property
    def layers(self) -> list[str]:
        return list(self.reader.layers)

    @property
    def embedding(self) -> str:
        return self.reader.embedding

    @property
    def cosine(self) -> bool:
        return self.reader.cosine

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_running"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_running": threading.Lock()}

    def __repr__(self) -> str:
        cosine = ", cosine=True" if self.cosine else ""
        return f"Backbone({self.name!r}, layers={self.layers}, embedding={self.embedding!r}{cosine}, device='{self.device}')"

    @torch_defaults()
    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(B, 3, H, W) floating in [0, 1] -> embedding (B, E) and pyramid of (B, C_l, H_l, W_l), finest first.

        Both are float32 on self.device. Runs in inference mode, channels_last, and on CUDA under float16 autocast.
        A module that runs more than once in a forward pass counts with its first output.

        Raises InputError where the network does not take images of this size, or where a layer is not reached, is not
        an image, is finer than the one before it, or holds NaN or infinity; it names the layer.
        """
        if not isinstance(images, torch.Tensor) or not images.dtype.is_floating_point:
            got = f"a {images.dtype} tensor" if isinstance(images, torch.Tensor) else type(images).__name__
            raise DtypeError(f"images must be a floating tensor (B, 3, H, W) in [0, 1], got {got}")
        if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
            raise InputError(f"images must have shape (B, 3, H, W), none of them 0; got {tuple(images.shape)}")
        with self._running:
            outputs = self._run(images)
        self._check_finite(outputs)
        with torch.no_grad():
            return self.reader.read(self.module, outputs, images)

    def _run(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The wanted modules' outputs in one forward pass."""
        if any(one.training for one in self.module.modules()):  # it is the caller's, who may have trained it meanwhile
            self.module.eval()
        wanted = self.reader.wanted
        outputs: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                if name in outputs:
                    return
                if not isinstance(output, torch.Tensor):
                    raise InputError(f"layer {name!r} must return a tensor, got {type(output).__name__}")
                # A copy, since an in-place ReLU may follow; a plain tensor, since inference tensors are of little use outside.
                with torch.inference_mode(False):
                    outputs[name] = output.to(torch.float32, copy=True)
                if len(outputs) == len(wanted):
                    raise _AllSeen

            return hook

        handles = [self.module.get_submodule(name).register_forward_hook(keep(name)) for name in wanted]
        dtype = next((p.dtype for p in self.module.parameters() if p.dtype.is_floating_point), torch.float32)
        half = torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda")
        try:
            with torch.inference_mode(), half:
                normalised = (images.to(self.device, torch.float32) - self.shift) / self.scale
                self.module(normalised.to(dtype).contiguous(memory_format=torch.channels_last))
        except _AllSeen:
            pass
        except AssertionError as error:  # how vision transformers refuse a size
            raise InputError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels do not fit backbone {self.name!r}: "
                f"{str(error) or 'it refuses them'}; choose resize and crop that do"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        unseen = [name for name in wanted if name not in outputs]
        if unseen:
            raise InputError(f"layers must run in the module's forward pass, but {unseen[0]!r} did not")
        return outputs

    def _check_finite(self, outputs: dict[str, torch.Tensor]) -> None:
        finite = torch.stack([values.isfinite().all() for values in outputs.values()]).tolist()  # one wait for the device
        for name, good in zip(outputs, finite, strict=True):
            if not good:
                raise InputError(f"features must be finite, but layer {name!r} returned NaN or infinity")

    def spec(self) -> dict[str, Any]:
        """What identifies this backbone, as JSON-able values; backbone_from_spec rebuilds and checks it."""
        return {
            "name": self.name,
            "layers": list(self.layers),
            "embedding": self.embedding,
            "mean": list(self._mean),
            "std": list(self._std),
            "cosine": self.cosine,
            "weights": self._weights,
            "fingerprint": self.state_fingerprint(),
        }

    def state_fingerprint(self) -> str:
        """SHA-256 (hex) over the names, shapes, types and values of all weights and buffers that affect the output."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            if name.endswith("num_batches_tracked") or not isinstance(tensor, torch.Tensor):
                continue  # a training counter: absent from old files, never read in eval mode
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)};".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()
