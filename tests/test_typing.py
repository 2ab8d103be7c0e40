"""What type checkers are told: the compiled module's stub names what the module has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fastspade._engine as engine

INSTALLED = Path(engine.__file__).parent
BINDINGS = Path(__file__).parents[1] / "csrc" / "bindings"
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
        defined[re.match(r'"(\w+)"', part)[1]] = re.findall(r'arg\("(\w+)"\)', part)
    errors = re.findall(r'register_exception<[\w:]+>\(module, "(\w+)"', source)
    named = {name: of for name, of in stub().items() if OF_CUDA.match(name)}
    assert len(defined) == 5 and {**defined, **dict.fromkeys(errors)} == named


def test_the_package_says_that_it_is_typed():
    assert (INSTALLED / "py.typed").read_bytes() == b""
