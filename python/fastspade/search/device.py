"""Which device work runs on where none is asked for, and whether the CUDA engine of this build runs on the one that is."""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import NamedTuple

import torch

from fastspade.errors import DeviceError, InputError
from fastspade.search.cpu import compiled_engine
from fastspade.search.cuda import has_cuda_engine

LEAST_CAPABILITY = (8, 0)  # the kernels' asynchronous copies and bfloat16 products


class CudaVersions(NamedTuple):
    """As CUDA numbers them, 1000 * major + 10 * minor."""

    toolkit: int  # that compiled the engine
    runtime: int  # linked into it
    driver: int  # the newest CUDA that the installed driver serves; 0: no driver


def version_text(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def cuda_versions() -> CudaVersions | None:
    """None where this build has no CUDA engine."""
    return CudaVersions(*compiled_engine().cuda_versions()) if has_cuda_engine() else None


def cuda_obstacle(index: int | None = None) -> str | None:
    """Why the CUDA engine cannot run on device `index` (None: the current one), with the way out; None where it can."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (index or 0) >= count:
        return f"{count} CUDA devices are visible"
    versions = cuda_versions()
    if versions is None:
        return "this build of fastspade has no CUDA engine; build it where there is a CUDA toolkit (see README)"
    toolkit, runtime, driver = versions
    if driver // 1000 < runtime // 1000:  # within a major version older drivers serve newer runtimes
        return (
            f"the driver serves CUDA {version_text(driver)} at most, and this build has the CUDA {version_text(runtime)} runtime"
            "; update the driver, or build fastspade with a toolkit that is no newer than it"
        )
    capability = torch.cuda.get_device_capability(index)
    digits = "{}{}".format(*capability)
    name = f"{torch.cuda.get_device_name(index)} has compute capability {'.'.join(map(str, capability))}"
    if capability < LEAST_CAPABILITY:
        return f"{name}; the CUDA engine needs 8.0 or newer"
    built = compiled_engine().cuda_architectures.split()
    if any(_has_image(entry, capability) for entry in built):
        return None
    if any(_has_ptx(entry, capability) for entry in built):
        if driver >= toolkit:
            return None
        return (
            f"{name}, for which this build has only PTX, of CUDA {version_text(toolkit)}; "
            f"the driver serves CUDA {version_text(driver)} at most: update it, or build fastspade with {digits} in "
            "FASTSPADE_CUDA_ARCHITECTURES or with an older toolkit"
        )
    return f"{name}, and this build has code for {' '.join(built)}; build fastspade with {digits} in FASTSPADE_CUDA_ARCHITECTURES"


def _parsed(entry: str) -> tuple[tuple[int, int], str, str]:
    """Of an architecture as CMake writes it: "90a-real" is ((9, 0), "a", "-real")."""
    found = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", entry)
    assert found is not None, entry
    return (int(found[1]), int(found[2])), found[3], found[4] or ""


def _has_image(entry: str, capability: tuple[int, int]) -> bool:
    """Machine code runs on its own major version, from its minor version on; with the suffix a only on its own."""
    of, suffix, kind = _parsed(entry)
    if kind == "-virtual" or of[0] != capability[0]:
        return False
    return of == capability if suffix == "a" else of <= capability


def _has_ptx(entry: str, capability: tuple[int, int]) -> bool:
    """PTX is compiled for any newer device; with a suffix it is bound as machine code is."""
    of, suffix, kind = _parsed(entry)
    return kind != "-real" and not suffix and of <= capability


def has_sm90a_search() -> bool:
    return "90a-real" in compiled_engine().cuda_architectures.split()


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device named, or CUDA where this build runs on it, else the CPU.

    Raises InputError for what is no device, and DeviceError for one named on which the CUDA engine cannot run.
    """
    if device is not None:
        try:
            place = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"device must be a torch device such as 'cpu' or 'cuda', got {device!r}") from error
        if place.type == "cuda" and (obstacle := cuda_obstacle(place.index)):
            raise DeviceError(f"device {str(device)!r} is not available: {obstacle}")
        return check_present(place)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    obstacle = cuda_obstacle()
    if obstacle is not None:
        _tell(obstacle)
    return torch.device("cpu" if obstacle else "cuda")


@cache
def _tell(obstacle: str) -> None:
    """Once per process."""
    warnings.warn(f"the CPU is used: {obstacle}", stacklevel=4)


def check_present(device: torch.device) -> torch.device:
    """The device itself. Raises DeviceError where nothing can be computed on it here."""
    if device.type in ("cpu", "cuda"):  # cuda_obstacle looks at CUDA devices
        return device
    try:
        torch.zeros(1, dtype=torch.float32, device=device).add(1).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what torch says of a backend that it lacks differs
        why = str(error).strip().partition("\n")[0]
        raise DeviceError(
            f"device {str(device)!r} cannot be used here: {why}; name 'cpu', or 'cuda' where there is one"
        ) from error
    return device
