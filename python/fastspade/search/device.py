"""The device that work runs on where none is asked for."""

from __future__ import annotations

import torch

from fastspade.errors import InputError
from fastspade.search.cpu import compiled_engine


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device named, or CUDA where this build and machine have it, else the CPU. Raises InputError."""
    if device is not None:
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise InputError(f"device must be a torch device such as 'cpu' or 'cuda', got {device!r}") from error
    built = compiled_engine().cuda_architectures.split()
    return torch.device("cuda" if built and torch.cuda.is_available() else "cpu")
