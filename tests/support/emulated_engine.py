"""Compiles the emulated CUDA engine for the tests."""

from __future__ import annotations

import fcntl
import importlib.util
import itertools
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from shared_folder import shared_folder

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "cuda" / "emulator"
MACHINE = ["tests/cuda/emulator/simt.cpp", "tests/cuda/emulator/simt_hopper.cpp"]


class Unit(NamedTuple):
    """What becomes one object file."""

    source: str
    options: tuple[str, ...] = ()


def searches(*instances: str) -> Unit:
    """Search kernels; each takes long to compile."""
    return Unit("tests/cuda/emulator/kernels.cpp", ("-DFASTSPADE_KERNELS=" + " ".join(instances),))


def kernels_of(header: str) -> Unit:
    """The kernels of a header of csrc/cuda that are not templates, and of those that it includes."""
    return Unit(f"csrc/cuda/{header}", ("-xc++",))


UNITS = {
    "runner": Unit("tests/cuda/emulator/runner.cpp", ("-O1",)),
    "engine": Unit("tests/cuda/emulator/engine.cpp"),  # with all kernels but the searches
    "sm80": searches("FASTSPADE_SM80(, HalfOperand)"),
    "sm90": searches("FASTSPADE_SM90(, HalfOperand)"),
    "sm80_bfloat16": searches("FASTSPADE_SM80(, BFloat16Operand)"),
    "sm90_bfloat16": searches("FASTSPADE_SM90(, BFloat16Operand)"),
    "plan": Unit("csrc/cuda/plan.cpp"),
    "plan_sm90": Unit("csrc/cuda/plan_sm90.cpp"),
    "machine": Unit(MACHINE[0]),
    "machine_hopper": Unit(MACHINE[1]),
}
STANDARD = "algorithm array bit cmath cstdint cstring functional limits map memory random stdexcept string vector".split()
numbers = itertools.count()


def _compiler() -> str:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the emulated CUDA engine with")
    return compiler


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]


def _compile(root: Path, units: Mapping[str, Unit], folder: Path, *more: str) -> dict[str, str]:
    """Object files of units, found below `root`, two compilations at a time."""
    pybind11 = pytest.importorskip("pybind11", reason="the emulated CUDA engine is built with pybind11")
    includes = [root / "csrc", root / "tests" / "cuda" / "emulator", pybind11.get_include(), sysconfig.get_paths()["include"]]
    options = ["-std=c++20", *more, "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", "-Wno-psabi", "-fPIC"]
    options += ["-fvisibility=hidden", "-DFASTSPADE_EMULATE", *(f"-I{path}" for path in includes)]
    targets = {name: str(folder / f"{name}.o") for name in units}

    def compile_one(name: str) -> None:
        unit = units[name]
        _run([_compiler(), *options, *unit.options, "-c", str(root / unit.source), "-o", targets[name]])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, targets))
    return targets


@cache
def _objects() -> dict[str, str]:
    """All units as they are, compiled once, whatever number of processes runs the tests."""
    folder = shared_folder() / "emulator"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
                _compile(ROOT, UNITS, Path(unfinished), "-O2")
                header = Path(unfinished) / "standard.hpp"
                header.write_text("".join(f"#include <{name}>\n" for name in STANDARD))
                precompiled = _compile(
                    Path(unfinished), {header.name: Unit(header.name, ("-xc++-header",))}, Path(unfinished), "-O1"
                )
                shutil.move(precompiled[header.name], f"{header}.gch")
                shutil.copytree(unfinished, folder)
    return {name: str(folder / f"{name}.o") for name in UNITS}


def build(
    folder: Path, replace: Mapping[str, tuple[str, str]] | None = None, units: Mapping[str, Unit] | None = None
) -> ModuleType:
    """The emulated engine, linked in `folder`.

    replace: file of csrc/cuda, below the repository -> (text, other text): changes made to a copy of the sources, for
    mutation tests. units: those that are compiled anew for it, instead of those of UNITS of their names; where a kernel is in
    others too, theirs is used.
    """
    objects = dict(_objects())
    if replace:
        root = folder / "sources"
        shutil.copytree(ROOT / "csrc", root / "csrc")
        shutil.copytree(HERE, root / "tests" / "cuda" / "emulator", ignore=shutil.ignore_patterns("__pycache__"))
        for name, (text, other) in replace.items():
            path = root / name
            before = path.read_text()
            assert before.count(text) == 1, f"{name} holds {text!r} {before.count(text)} times"
            path.write_text(before.replace(text, other))
        # A mutant runs few searches: compiled fast rather than well.
        standard = shared_folder() / "emulator" / "standard.hpp"
        changed = _compile(root, units or {}, folder, "-O1", "-include", str(standard))
        objects = {**changed, **{name: path for name, path in objects.items() if name not in changed}}
    # A name of its own: loaded under one name, a second file would answer with the first one's module.
    name = f"fastspade_emulated_{next(numbers)}"
    target = folder / f"{name}.so"
    renamed = folder / "renamed.o"
    _run(["objcopy", "--redefine-sym", f"PyInit_fastspade_emulated=PyInit_{name}", objects["runner"], str(renamed)])
    objects["runner"] = str(renamed)
    _run([_compiler(), "-shared", *objects.values(), "-o", str(target)])
    spec = importlib.util.spec_from_file_location(name, target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
