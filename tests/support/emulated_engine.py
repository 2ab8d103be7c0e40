"""Compiles the emulated CUDA engine for the tests."""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "cuda" / "emulator"
MACHINE = ["tests/cuda/emulator/simt.cpp", "tests/cuda/emulator/simt_hopper.cpp"]
UNCHANGING = ["tests/cuda/emulator/runner.cpp", *MACHINE]  # what no mutation touches: compiled once
ENGINE = ["tests/cuda/emulator/engine.cpp", "csrc/cuda/plan.cpp", "csrc/cuda/plan_sm90.cpp"]
numbers = itertools.count()


def _compiler() -> str:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the emulated CUDA engine with")
    return compiler


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]


def _compile(root: Path, sources: list[str], folder: Path, optimise: str = "-O2") -> list[str]:
    """Object files of `sources`, found below `root`, two compilations at a time."""
    pybind11 = pytest.importorskip("pybind11", reason="the emulated CUDA engine is built with pybind11")
    includes = [root / "csrc", root / "tests" / "cuda" / "emulator", pybind11.get_include(), sysconfig.get_paths()["include"]]
    options = [
        "-std=c++20",
        optimise,
        "-ffp-contract=off",
        "-Wall",
        "-Wno-unknown-pragmas",
        "-fPIC",
        "-fvisibility=hidden",
        "-DFASTSPADE_EMULATE",
    ]
    targets = [str(folder / Path(source).with_suffix(".o").name) for source in sources]

    def compile_one(source: str, target: str) -> None:
        _run([_compiler(), *options, *(f"-I{path}" for path in includes), "-c", str(root / source), "-o", target])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, sources, targets))
    return targets


@cache
def _unchanging_objects() -> list[str]:
    folder = tempfile.mkdtemp(prefix="fastspade-emulator-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return _compile(ROOT, UNCHANGING, Path(folder))


def build(folder: Path, replace: dict[str, tuple[str, str]] | None = None) -> ModuleType:
    """The emulated engine, compiled in `folder`.

    replace: file of csrc/cuda, below the repository -> (text, other text): changes made to a copy of the sources, for
    mutation tests. They must not change what kernels are told (parameters.hpp, plan.hpp).
    """
    root = ROOT
    if replace:
        root = folder / "sources"
        shutil.copytree(ROOT / "csrc", root / "csrc")
        shutil.copytree(HERE, root / "tests" / "cuda" / "emulator", ignore=shutil.ignore_patterns("__pycache__"))
        for name, (text, other) in replace.items():
            path = root / name
            before = path.read_text()
            assert before.count(text) == 1, f"{name} holds {text!r} {before.count(text)} times"
            path.write_text(before.replace(text, other))
    # A mutant runs few searches, so it is compiled fast rather than well.
    objects = [*_compile(root, ENGINE, folder, "-O1" if replace else "-O2"), *_unchanging_objects()]
    # A name of its own: loaded under one name, a second file would answer with the first one's module.
    name = f"fastspade_emulated_{next(numbers)}"
    target = folder / f"{name}.so"
    renamed = folder / "renamed.o"
    _run(["objcopy", "--redefine-sym", f"PyInit_fastspade_emulated=PyInit_{name}", objects[len(ENGINE)], str(renamed)])
    objects[len(ENGINE)] = str(renamed)
    _run([_compiler(), "-shared", *objects, "-o", str(target)])
    spec = importlib.util.spec_from_file_location(name, target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
