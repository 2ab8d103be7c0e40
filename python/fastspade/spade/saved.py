"""What a saved model holds beside the bank and the backbone, and a fitted Spade made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from fastspade.backbones import backbone_from_spec
from fastspade.backbones.foreground import Foreground
from fastspade.bank import Bank, model_file
from fastspade.errors import FastspadeError, ModelFileError
from fastspade.images import sides
from fastspade.search.device import pick_device
from fastspade.spade.border import as_profile
from fastspade.spade.fitted import FittedModel
from fastspade.spade.leave_one_out import current_ceiling
from fastspade.spade.options import Options, completed
from fastspade.spade.relative import Ceiling
from fastspade.spade.threshold import Threshold

Model = TypeVar("Model", bound=FittedModel)


def record(model: FittedModel) -> dict[str, Any]:
    """The options that scores depend on and what fit and calibrate found, as plain values."""
    current_ceiling(model, model.fitted_bank().snapshot)  # made now, so that who loads the model need not
    found = {
        "shared_size": model.shared_size,
        "threshold": None if model.threshold is None else model.threshold.as_dict(),
        "foreground": None if model.foreground is None else model.foreground.as_dict(),
        "border": None if model.border is None else model.border.tolist(),
        "ceiling": None if model.ceiling is None else model.ceiling.as_dict(),
    }
    return model.options() | {name: value for name, value in found.items() if value is not None}


def load(
    kind: Callable[..., Model], path: Path, module: torch.nn.Module | None, weights: str | Path | None, running: Mapping[str, Any]
) -> Model:
    """A `kind` of what lies at `path`, a folder or a file. running: options of how and where the work is done."""
    Options(**running)  # what the caller gave is not to be blamed on the file
    if path.is_dir():
        bank = Bank.open(path)
        if bank.options is None or bank.made_by is None:
            raise ModelFileError(f"path: {path} holds a bank, but no model; open it with Bank.open")
        options, spec = completed(bank.options), bank.made_by["backbone"]
    else:
        bank, header = model_file.read_model(path)
        options, spec = completed(header["options"]), header["backbone"]
    found = {name: options.pop(name, None) for name in ("shared_size", "threshold", "foreground", "border", "ceiling")}
    device = pick_device(running["device"])
    try:
        backbone = backbone_from_spec(spec, module=module, weights=weights, device=device)
    except FastspadeError:
        raise
    except Exception as error:  # whatever a hostile description provokes
        raise ModelFileError(f"path: {path} does not describe a backbone: {type(error).__name__}: {error}") from error
    try:
        model = kind(backbone, **options | {**running, "device": device})
        model.shared_size = None if found["shared_size"] is None else sides.pair("shared_size", found["shared_size"])
    except (FastspadeError, TypeError) as error:
        raise ModelFileError(f"path: {path} holds options that cannot be used: {error}") from error
    model.foreground = None if found["foreground"] is None else Foreground.from_dict(found["foreground"])
    model.check_kappa(len(bank), bank.level_shapes)
    bank.equip(model.extractor)
    model.bank = bank
    model.threshold = None if found["threshold"] is None else Threshold.from_dict(found["threshold"])
    model.border = None if found["border"] is None else as_profile(found["border"])
    model.ceiling = None if found["ceiling"] is None else Ceiling.from_dict(found["ceiling"])
    return model
