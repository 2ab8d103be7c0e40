"""What a result must carry to be worth keeping: the machine, the versions, the command."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def describe(*more: str) -> dict[str, Any]:
    """Processor, cores, memory, versions (also of the packages `more`) and command line of this run."""
    import fastspade

    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        model = names[0] if names else model
    versions = {}
    for package in ("torch", "numpy", "faiss-cpu", "scikit-learn", "fastspade", *more):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "versions": versions,
        "build": fastspade.build_info(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": " ".join(["python", *sys.argv]),
        # Old OpenBLAS builds do not know newer processors and fall back to their slowest kernels unless told.
        "environment": {name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "OMP_NUM_THREADS") if name in os.environ},
    }


def write(path: str | Path, results: dict[str, Any]) -> None:
    """Results with the machine's description, as indented JSON."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"machine": describe(), **results}, indent=2) + "\n", encoding="utf-8")
