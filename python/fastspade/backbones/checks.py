"""Checks of load_backbone's arguments: each returns what is to be used, or raises one error that names the argument."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import nn

from fastspade.backbones.readout import THEN
from fastspade.errors import DeviceError, DtypeError, InputError

__all__ = ["check_channels", "check_device", "check_layer", "check_layers"]


def check_layers(module: nn.Module, layers: Sequence[str]) -> list[str]:
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise DtypeError(f"layers must be a list of module names, got {type(layers).__name__}")
    if len(layers) == 0:
        raise InputError("layers must name at least one layer, got none")
    if len(set(layers)) != len(layers):
        raise InputError(f"layers must not repeat a name, got {list(layers)}")
    return [check_layer(module, "layers", name) for name in layers]


def check_layer(module: nn.Module, argument: str, name: str) -> str:
    names = [known for known, _ in module.named_modules(remove_duplicate=False) if known]
    if not isinstance(name, str) or any(part not in names for part in name.split(THEN, 1)):
        near = difflib.get_close_matches(str(name), names, n=3) or names[:8]
        raise InputError(f"{argument} must name modules of the backbone, got {name!r}; for instance {', '.join(near)}")
    return name


def check_channels(argument: str, values: Sequence[float], *, positive: bool = False) -> tuple[float, ...]:
    try:
        channels = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"{argument} must be 3 numbers, got {values!r}") from error
    if len(channels) != 3 or not all(abs(value) < float("inf") and (value > 0 or not positive) for value in channels):
        raise InputError(f"{argument} must be 3 finite{' positive' if positive else ''} numbers, got {values!r}")
    return channels


def check_device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device must be a torch device such as 'cpu' or 'cuda:0', got {device!r}") from error
    if place.type == "cuda" and (not torch.cuda.is_available() or (place.index or 0) >= torch.cuda.device_count()):
        raise DeviceError(f"device {str(device)!r} is not available: {torch.cuda.device_count()} CUDA devices are visible")
    return place
