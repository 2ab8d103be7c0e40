"""State dicts: read from a file without running code from it, and loaded only where everything fits."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import nn

from fastspade.errors import MissingFileError, ModelFileError
from fastspade.files.home import user_path

__all__ = ["fill", "misfits", "read_state"]


def read_state(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """A state dict from a local file: .safetensors, or what torch.save wrote, read with weights_only=True.

    Raises MissingFileError, or ModelFileError where the file holds no state dict of tensors.
    """
    file = user_path(path)
    if not file.is_file():
        raise MissingFileError(f"weights must be an existing file, got {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(file)
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


def fill(module: nn.Module, state: dict[str, torch.Tensor], *, classifier: str, name: str, label: str) -> None:
    """Fill a module on the meta device; every weight must be there and fit.

    The classifier is replaced by nothing: it plays no part, so weight files may lack it or have another.
    Raises ModelFileError naming the first weights that do not fit.
    """
    setattr(module, classifier, nn.Identity())
    state = {key: value for key, value in state.items() if not key.startswith(classifier + ".")}
    expected = module.state_dict()
    problems = misfits(expected, state)
    if problems:
        raise ModelFileError(f"weights {label} do not fit backbone {name!r}: {problems}")
    counters = {key: torch.zeros_like(value, device="cpu") for key, value in expected.items() if key not in state}
    state = {key: value.to(expected[key].dtype) for key, value in state.items()}
    module.load_state_dict(state | counters, assign=True)


def misfits(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> str:
    """What keeps a state dict from filling the expected one, in words; empty where nothing does."""
    problems = [f"{key} is missing" for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    problems += [f"{key} is not part of it" for key in state if key not in expected]
    problems += [
        f"{key} is {tuple(state[key].shape)}, needs {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more
