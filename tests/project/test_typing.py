"""What type checkers are told: mypy passes the package strictly, users see the types meant, the stub is of the module."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastspade._engine as engine
from fastspade import Spade
from fastspade.arguments import Options

pytestmark = pytest.mark.slow  # runs mypy

ROOT = Path(__file__).parents[2]
INSTALLED = Path(engine.__file__).parent
BINDINGS = ROOT / "csrc" / "bindings"
OF_CUDA = re.compile(r"cuda_(?!architectures)|Cuda")  # only in a build with the CUDA engine


def stub() -> dict[str, list[str] | None]:
    """The public names of _engine.pyi: a function's with its arguments, others with None. Types that only checkers see are private."""
    names: dict[str, list[str] | None] = {}
    for node in ast.parse((INSTALLED / "_engine.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = [argument.arg for argument in node.args.args]
        elif isinstance(node, ast.ClassDef):
            names[node.name] = None
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = None
    return {name: arguments for name, arguments in names.items() if not name.startswith("_")}


def compiled() -> dict[str, list[str] | None]:
    """The same of the module that runs; pybind11 writes a function's signature at the head of its docstring."""
    names = {}
    for name, value in vars(engine).items():
        if not name.startswith("_"):
            is_function = callable(value) and not isinstance(value, type)
            names[name] = re.findall(r"(\w+): ", value.__doc__.partition("\n")[0]) if is_function else None
    return names


def test_the_stub_names_what_the_compiled_module_has():
    has_cuda = "cuda_search" in compiled()
    assert compiled() == {name: of for name, of in stub().items() if has_cuda or not OF_CUDA.match(name)}


def test_the_stub_names_the_cuda_functions_that_the_bindings_define():
    """Also where this build has no CUDA engine: read from the source."""
    if not BINDINGS.exists():
        pytest.skip("the tests do not run from a source checkout")
    source = "".join((BINDINGS / name).read_text(encoding="utf-8") for name in ("cuda.hpp", "cuda.cpp"))
    defined = {}
    for part in re.split(r"module\.def\(", source)[1:]:
        defined[re.match(r'\s*"(\w+)"', part)[1]] = re.findall(r'arg\("(\w+)"\)', part)
    classes = re.findall(r'(?:register_exception|class_)<[^(]+>\(module, "(\w+)"', source)
    named = {name: of for name, of in stub().items() if OF_CUDA.match(name)}
    assert len(defined) == 7 and {**defined, **dict.fromkeys(classes)} == named


def test_the_package_says_that_it_is_typed():
    assert (INSTALLED / "py.typed").read_bytes() == b""


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Runs mypy as pyproject.toml says, here or in an empty folder: there the package is the installed one, as users have it."""
    pytest.importorskip("mypy", reason="mypy is not installed (extra 'test')")
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("the tests do not run from a source checkout")
    cache, elsewhere = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("elsewhere")

    def run(*arguments: str, where: Path = elsewhere) -> None:
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache)]
        environment = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
        ended = subprocess.run([*command, *arguments], cwd=where, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    return run


def test_users_see_the_types_meant(mypy):
    mypy(str(ROOT / "tests" / "programs" / "typed_use.py"))


def test_the_package_passes_mypy_strictly(mypy):
    mypy(where=ROOT)


def test_no_error_is_ignored_without_its_code_and_a_reason():
    if not BINDINGS.exists():
        pytest.skip("the tests do not run from a source checkout")
    for file in (ROOT / "python" / "fastspade").rglob("*.py"):
        for line in file.read_text(encoding="utf-8").splitlines():
            assert "type: ignore" not in line or re.search(r"# type: ignore\[[\w, -]+\]  # \w", line), f"{file}: {line}"


def test_the_type_of_the_options_has_those_of_spade():
    options = [name for name in inspect.signature(Spade).parameters if name != "backbone"]
    assert sorted(Options.__annotations__) == sorted(options)
