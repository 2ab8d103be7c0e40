"""Compiles the emulated CUDA engine (runner.cpp) for the tests."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import pybind11
import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
MACHINE = ["tests/emulator/simt.cpp", "tests/emulator/simt_hopper.cpp"]
SOURCES = ["tests/emulator/runner.cpp", *MACHINE, "csrc/cuda/plan.cpp", "csrc/cuda/plan_sm90.cpp"]
numbers = itertools.count()


def build(folder: Path, replace: dict[str, tuple[str, str]] | None = None) -> ModuleType:
    """The emulated engine, compiled in `folder`.

    replace: file below the repository -> (text, other text): changes made to a copy of the sources, for mutation tests.
    """
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the emulated CUDA engine with")
    root = HERE.parent.parent
    if replace:
        copy = folder / "sources"
        shutil.copytree(CSRC, copy / "csrc")
        shutil.copytree(HERE, copy / "tests" / "emulator", ignore=shutil.ignore_patterns("__pycache__"))
        for name, (text, other) in replace.items():
            path = copy / name
            before = path.read_text()
            assert before.count(text) == 1, f"{name} holds {text!r} {before.count(text)} times"
            path.write_text(before.replace(text, other))
        root = copy
    # A name of its own: loaded under one name, a second file would answer with the first one's module.
    name = f"fastspade_emulated_{next(numbers)}"
    target = folder / f"{name}.so"
    command = [compiler, "-std=c++20", "-O2", "-Wall", "-Wno-unknown-pragmas", "-shared", "-fPIC", "-DFASTSPADE_EMULATE", f"-DFASTSPADE_EMULATED_MODULE={name}"]
    command += [f"-I{root / 'csrc'}", f"-I{root / 'tests' / 'emulator'}", f"-I{pybind11.get_include()}"]
    command += [f"-I{sysconfig.get_paths()['include']}", *(str(root / source) for source in SOURCES), "-o", str(target)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]
    spec = importlib.util.spec_from_file_location(name, target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
