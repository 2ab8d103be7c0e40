"""What this build is and what it will use."""

from __future__ import annotations

from typing import TypedDict

from fastspade._version import __version__


class BuildInfo(TypedDict):
    version: str
    compiler: str
    simd: str
    cuda_architectures: list[str]
    cuda_versions: dict[str, str | None]
    threads: int
    torch: str


class CudaDevice(TypedDict):
    name: str
    compute_capability: str
    search: str | None
    obstacle: str | None


def build_info() -> BuildInfo:
    """Version, compiler, SIMD level picked at run time, threads, torch, and of the CUDA engine (empty: none): the
    architectures built, as CMake writes them, and the versions of the toolkit that compiled it, of the runtime linked into it
    and of what the installed driver serves (None: no driver).
    """
    import torch

    from fastspade.search.cpu import compiled_engine
    from fastspade.search.device import cuda_versions, version_text

    engine = compiled_engine()
    versions = cuda_versions()
    return {
        "version": __version__,
        "compiler": engine.compiler,
        "simd": engine.simd(),
        "cuda_architectures": engine.cuda_architectures.split(),
        "cuda_versions": {}
        if versions is None
        else {name: version_text(n) if n else None for name, n in versions._asdict().items()},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def cuda_devices() -> list[CudaDevice]:
    """The CUDA devices that torch sees: name, compute capability, and the search that large enough images take there, "sm80" or
    "sm90a" (FASTSPADE_CUDA_PATH may demand another); or None, and the obstacle.
    """
    import torch

    from fastspade.search.device import cuda_obstacle, has_sm90a_search

    found: list[CudaDevice] = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        capability, obstacle = torch.cuda.get_device_capability(index), cuda_obstacle(index)
        search = "sm90a" if capability == (9, 0) and has_sm90a_search() else "sm80"
        found.append(
            {
                "name": torch.cuda.get_device_name(index),
                "compute_capability": ".".join(map(str, capability)),
                "search": None if obstacle else search,
                "obstacle": obstacle,
            }
        )
    return found
