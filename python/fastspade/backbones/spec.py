"""A saved model's backbone, rebuilt from its description and checked against its weights' fingerprint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fastspade.backbones.backbone import Backbone
from fastspade.backbones.load import find_recipe, load_backbone
from fastspade.errors import InputError, ModelFileError

__all__ = ["backbone_from_spec"]


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
        try:
            recipe = find_recipe(name)
        except InputError as error:
            raise ModelFileError(f"the model needs backbone {name!r}, which is not to be had here: {error}") from error
        weights = None if spec["weights"] == recipe.pretrained_label else spec["weights"]
    backbone = load_backbone(
        name if module is None else module,
        layers=spec["layers"],
        embedding=spec["embedding"],
        weights=weights,
        mean=spec["mean"],
        std=spec["std"],
        cosine=bool(spec.get("cosine", False)),  # absent from models written before there was the option
        device=device,
    )
    if backbone.state_fingerprint() != spec["fingerprint"]:
        raise ModelFileError(
            f"the weights of backbone {name!r} are not those the model was fitted with "
            f"(fingerprint {backbone.state_fingerprint()[:12]}, needs {str(spec['fingerprint'])[:12]})"
        )
    return backbone
