"""load_backbone: a name, a module of the user's, or a Backbone -> a Backbone."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import nn

from fastspade.backbones.backbone import Backbone
from fastspade.backbones.checks import check_channels, check_device, check_layer, check_layers
from fastspade.backbones.efficientnet_lite0 import EFFICIENTNET_LITE0
from fastspade.backbones.network import Network, Recipe
from fastspade.backbones.timm_models import PREFIX, timm_recipe
from fastspade.backbones.torchvision_models import torchvision_recipe
from fastspade.errors import DtypeError, InputError
from fastspade.torch_defaults import torch_defaults

__all__ = ["BACKBONES", "find_recipe", "load_backbone"]

BACKBONES: dict[str, Recipe] = {
    "wide_resnet50_2": torchvision_recipe("wide_resnet50_2", "Wide_ResNet50_2_Weights"),
    "resnet18": torchvision_recipe("resnet18", "ResNet18_Weights"),
    "resnet50": torchvision_recipe("resnet50", "ResNet50_Weights"),
    "efficientnet_lite0": EFFICIENTNET_LITE0,
}


def find_recipe(name: str) -> Recipe:
    """The recipe of a named backbone. Raises InputError for an unknown name, MissingDependencyError without timm."""
    if name.startswith(PREFIX):
        return timm_recipe(name)
    recipe = BACKBONES.get(name)
    if recipe is None:
        raise InputError(f"backbone must be one of {', '.join(BACKBONES)}, {PREFIX}NAME or an nn.Module, got {name!r}")
    return recipe


@torch_defaults()
def load_backbone(
    backbone: str | nn.Module | Backbone = "wide_resnet50_2",
    *,
    layers: Sequence[str] | None = None,
    embedding: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    cosine: bool = False,
    device: str | torch.device = "cpu",
) -> Backbone:
    """A named backbone with its published weights, or your own module.

    backbone: "wide_resnet50_2" (the paper's), "resnet18", "resnet50" (torchvision, IMAGENET1K_V1, downloaded once),
        "efficientnet_lite0" (weights from packages, extra "demo"), "timm:NAME" (any model of timm that returns images or
        patch tokens, extra "timm"), any nn.Module, or a Backbone (returned as is). A module of yours is put in eval
        mode and moved to ``device`` itself; it is not copied.
    layers: names as in module.named_modules(), finest first; None takes the backbone's own. A module must name them. A
        layer may return (B, C, H, W) or a vision transformer's tokens, of which the patches' are taken. "blocks.3>norm": the
        output of blocks.3, taken through the module norm.
    embedding: the layer whose average over positions (of tokens: the class token, where there is one) is the stage-1
        embedding; None takes the backbone's own, for a module the last of ``layers``.
    weights: a local state dict for a named backbone: .safetensors, or .pth read with weights_only=True.
    mean, std: normalisation per channel of [0, 1] images; None takes the backbone's own, for a module ImageNet's.
    cosine: divide the embedding, and each level at each of its pixels, by its L2 norm, so that squared distances are
        2 - 2 cos. In a pyramid of several levels each level counts alike.

    Raises InputError (unknown name or layer), DtypeError, DeviceError, MissingFileError (no such file, or the
    download failed), ModelFileError (the file does not fit), MissingDependencyError.
    """
    if isinstance(backbone, Backbone):
        if cosine or any(option is not None for option in (layers, embedding, weights, mean, std)):
            raise InputError("layers, embedding, weights, mean, std and cosine cannot be given with a Backbone already loaded")
        return backbone
    place = check_device(device)
    if isinstance(backbone, nn.Module):
        if isinstance(backbone, torch.jit.ScriptModule):
            raise InputError(
                "backbone must be an nn.Module whose layers can be read, got a ScriptModule; give the module it was made of"
            )
        if weights is not None:
            raise InputError("weights is for named backbones; load your module's weights before passing it")
        network = Network(backbone, f"module:{type(backbone).__qualname__}")
    elif isinstance(backbone, str):
        network = find_recipe(backbone).load(weights)
    else:
        raise DtypeError(f"backbone must be a name, an nn.Module or a Backbone, got {type(backbone).__name__}")
    layers = network.layers if layers is None else layers
    if layers is None:
        raise InputError("layers must name the module's pyramid layers, finest first; got None")
    layers = check_layers(network.module, layers)
    embedding = network.embedding if embedding is None else embedding
    return Backbone(
        network.module,
        name=network.name,
        layers=layers,
        embedding=layers[-1] if embedding is None else check_layer(network.module, "embedding", embedding),
        mean=check_channels("mean", network.mean if mean is None else mean),
        std=check_channels("std", network.std if std is None else std, positive=True),
        weights=network.weights,
        device=place,
        cosine=bool(cosine),
        image_size=network.image_size,
    )
