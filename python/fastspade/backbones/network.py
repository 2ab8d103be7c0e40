"""What a named backbone is: where its weights come from, and how SPADE reads the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Network", "Recipe"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Network:
    """A module with its weights, and the defaults that a caller may override.

    name: under which it is rebuilt. weights: a label of the published weights, or the path of a file; None for a module
    of the user's. layers: the pyramid's modules, finest first; None: the user must name them. embedding: None: the last
    of the layers. image_size: (resize, crop) in pixels at which the network was evaluated by its makers.
    """

    module: nn.Module
    name: str
    weights: str | None = None
    layers: Sequence[str] | None = None
    embedding: str | None = None
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Recipe:
    """How a named backbone is made. load takes a weights file, or None for the published weights.

    pretrained_label: how the published weights are called in a saved model.
    """

    name: str
    pretrained_label: str
    load: Callable[[str | os.PathLike[str] | None], Network]
