"""The device that work runs on where none is asked for."""

from __future__ import annotations

import torch

from fastspade.errors import DeviceError, InputError
from fastspade.search.cpu import compiled_engine


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device named, or CUDA where this build and machine have it, else the CPU. Raises InputError."""
    if device is not None:
        try:
            place = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"device must be a torch device such as 'cpu' or 'cuda', got {device!r}") from error
        return check_present(place)
    built = compiled_engine().cuda_architectures.split()
    return torch.device("cuda" if built and torch.cuda.is_available() else "cpu")


def check_present(device: torch.device) -> torch.device:
    """The device itself. Raises DeviceError where nothing can be computed on it here."""
    if device.type in ("cpu", "cuda"):  # load_backbone looks for CUDA devices
        return device
    try:
        torch.zeros(1, dtype=torch.float32, device=device).add(1).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what torch says of a backend that it lacks differs
        why = str(error).strip().partition("\n")[0]
        raise DeviceError(f"device {str(device)!r} cannot be used here: {why}; name 'cpu', or 'cuda' where there is one") from error
    return device
