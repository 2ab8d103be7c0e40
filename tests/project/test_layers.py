"""The packages' order: every module imports from its own package and from those before it, and no imports run in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fastspade

ROOT = Path(fastspade.__file__).parent

# Each line may import from itself and from the lines above it; what stands on one line together is independent of each other.
LAYERS = [
    "errors _version _lazy _moved _engine torch_defaults",
    "checks",
    "files",
    "images",
    "backbones search",
    "bank",
    "maps",
    "spade",
    "info nn evaluate distributed",
    "ray demo arguments sklearn anomalib",
    "cli",
    "__main__ __init__",
]
# Independent of SPADE, but not of one another.
WITHIN_A_LINE = {("search", "backbones")}


def imports(path: Path) -> set[str]:
    """The modules of fastspade that a file imports, those for type checkers alone among them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fastspade":
            for name in node.names:
                below = ROOT.joinpath(*node.module.split(".")[1:], name.name)
                is_module = below.is_dir() or below.with_suffix(".py").exists() or name.name == "_engine"
                found.add(f"{node.module}.{name.name}" if is_module else node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith("fastspade.")}
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["fastspade", *(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)])


def first_part(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return {module_name(path): imports(path) for path in sorted(ROOT.rglob("*.py"))}


def test_every_package_has_its_line(graph):
    assert {first_part(module) for module in graph} <= {name for line in LAYERS for name in line.split()}


def test_no_import_points_up(graph):
    height = {name: number for number, line in enumerate(LAYERS) for name in line.split()}
    upward = []
    for module, targets in graph.items():
        for target in targets:
            here, there = first_part(module), first_part(target)
            if here != there and here != "__init__" and height[there] >= height[here] and (there, here) not in WITHIN_A_LINE:
                upward.append(f"{module} imports {target}")
    assert upward == []


def test_no_imports_run_in_a_circle(graph):
    """Within packages, too. A package's __init__ only passes names on: who imports from it depends on where these are."""
    inner = {module: {target for target in targets if target in graph} - {module} for module, targets in graph.items()}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
