"""Networks of timm by name: "timm:resnet50.a1_in1k", "timm:vit_small_patch14_dinov2.lvd142m".

Convolutional and hierarchical networks: the stages at strides 4, 8 and 16 are the pyramid, like the paper's blocks 1 to 3.
Plain vision transformers, whose blocks all have one resolution: a pyramid of one level, the patch tokens after the last
norm. The embedding is what the network's own classifier would have been given: the average over positions, the class
token, or an attention pool, as its makers chose.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

from torch import nn

from fastspade.backbones.network import Network, Recipe
from fastspade.backbones.weights import misfits, read_state
from fastspade.errors import InputError, MissingDependencyError, MissingFileError, ModelFileError

__all__ = ["PREFIX", "timm_recipe"]

PREFIX = "timm:"
_STRIDES = (4, 8, 16)


def timm_recipe(name: str) -> Recipe:
    """The recipe of "timm:NAME" or "timm:NAME.TAG"; without a tag timm's default one, which the recipe's name spells out.

    Raises MissingDependencyError without timm, InputError for a name or tag that it does not have.
    """
    config = _config(name.removeprefix(PREFIX))
    architecture = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    label = _source(config)

    def load(weights: str | os.PathLike[str] | None) -> Network:
        if weights is None and not label:
            raise InputError(f"backbone {name!r} has no published weights; pass weights=FILE")
        module = _create(architecture, weights, config)
        return Network(
            module,
            PREFIX + architecture,
            label if weights is None else os.fspath(weights),
            _default_layers(module),
            _classifier(module, config.classifier),
            mean=config.mean,
            std=config.std,
            image_size=(int(config.input_size[-1] / config.crop_pct), config.input_size[-1]),
        )

    return Recipe(PREFIX + architecture, label, load)


def _config(name: str) -> Any:
    """timm's description of a network and its weights."""
    try:
        import timm
    except ImportError as error:
        raise MissingDependencyError(
            f"backbone '{PREFIX}{name}' needs the package timm; install the extra 'timm': pip install \"fastspade[timm]\""
        ) from error
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; similar ones are {', '.join(near)}" if near else ""
        raise InputError(f"backbone must name a model of timm {timm.__version__}, got {PREFIX}{name!s}{hint}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        known = f"has {', '.join(tags)}" if tags else "has none"
        raise InputError(f"backbone {PREFIX}{name!s} names weights {tag!r}; timm {timm.__version__} {known}")
    return timm.get_pretrained_cfg(name)


def _create(architecture: str, weights: str | os.PathLike[str] | None, config: Any) -> nn.Module:
    """The network without its classifier, its weights loaded by timm, which also converts its makers' own formats."""
    if weights is None:
        try:
            return _build(architecture, pretrained=True)
        except Exception as error:  # errors of the hub's client, of the HTTP library below it, of the file
            raise MissingFileError(
                f"cannot get the weights of '{PREFIX}{architecture}' from {_source(config)} ({_first_line(error)}); "
                "download them where there is a network and pass weights=PATH"
            ) from error
    heads = [config.classifier] if isinstance(config.classifier, str) else config.classifier or ()
    state = {key: value for key, value in read_state(weights).items() if not key.startswith(tuple(f"{h}." for h in heads))}
    # Where the weights have as many classes as the network, none, timm insists that every weight fits.
    own = {"state_dict": dict(state), "num_classes": 0, "label_offset": 0}
    try:
        return _build(architecture, pretrained=True, pretrained_cfg_overlay=own)
    except Exception as error:  # RuntimeError from torch; a converter that misses a weight raises what it likes
        problems = misfits(_build(architecture).state_dict(), state) or _first_line(error)
        raise ModelFileError(f"weights {os.fspath(weights)} do not fit backbone '{PREFIX}{architecture}': {problems}") from error


def _source(config: Any) -> str:
    """Where timm gets the published weights; empty where there are none."""
    return str(config.hf_hub_id or config.url or "")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _build(architecture: str, **options: Any) -> nn.Module:
    """A timm network that takes images of any size that its patches divide, where timm can make it so."""
    import timm

    module: nn.Module
    if timm.get_pretrained_cfg(architecture).fixed_input_size:
        try:  # position embeddings are interpolated to the image's grid
            module = timm.create_model(architecture, num_classes=0, dynamic_img_size=True, **options)
            return module
        except TypeError as error:
            if "dynamic_img_size" not in str(error):
                raise
    module = timm.create_model(architecture, num_classes=0, **options)
    return module


def _default_layers(module: nn.Module) -> Sequence[str] | None:
    """The stages at the pyramid's strides, or the last norm of a network of one resolution; None where there is neither."""
    stages = [(str(stage["module"]), stage["reduction"]) for stage in getattr(module, "feature_info", [])]
    if stages and len({stride for _, stride in stages}) == 1:
        return ["norm" if isinstance(getattr(module, "norm", None), nn.Module) else stages[-1][0]]
    return [name for name, stride in stages if stride in _STRIDES] or None


def _classifier(module: nn.Module, name: object) -> str | None:
    """The module left where the classifier was, which hands on what it is given; None where there is not one such."""
    known = dict(module.named_modules())
    return name if isinstance(name, str) and isinstance(known.get(name), nn.Identity) else None
