"""What the CUDA compiler made of the kernels: no spills, resources that allow the intended launches, tensor-core
instructions and 16-byte asynchronous copies in the machine code. Needs nvcc, not a GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
NVCC, CUOBJDUMP = shutil.which("nvcc"), shutil.which("cuobjdump")
if CUOBJDUMP is None and (triton := importlib.util.find_spec("triton")):  # a dependency of torch's CUDA build, with its own copy
    CUOBJDUMP = next(map(str, Path(triton.origin).parent.rglob("nvidia/bin/cuobjdump")), None)
pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc")

ARCHITECTURES = ["80", "86", "89", "90a"]
THREADS = {"search": 256, "redo": 128, "finish": 128, "schedule": 256, "centre": 256, "largest": 256, "scale": 256, "operand": 256, "terms": 256}
# Blocks a multiprocessor that registers must allow: the search is planned as one, its smallest tile as one beside another
# kernel's; the others hide their memory latency behind warps.
BLOCKS = {"search": 1, "redo": 3, "finish": 3, "terms": 2, "operand": 4, "largest": 4, "centre": 2, "scale": 1, "schedule": 1}


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda a: f"sm_{a}")
def compiled(request, tmp_path_factory):
    """(compiler's resource report, object file) for one architecture."""
    target = tmp_path_factory.mktemp("cuda") / "engine.o"
    architecture = request.param
    ended = subprocess.run(
        [NVCC, "-std=c++20", "-O3", f"-I{CSRC}", "-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
        + ["-Xptxas", "-v", "-c", str(CSRC / "cuda" / "engine.cu"), "-o", str(target)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stderr, target


def kernels(report: str) -> dict[str, dict[str, int]]:
    """Mangled kernel name -> registers and spill bytes."""
    found = {}
    for part in report.split("Compiling entry function '")[1:]:
        found[part.split("'")[0]] = {
            "registers": int(re.search(r"Used (\d+) registers", part)[1]),
            "spills": sum(map(int, re.findall(r"(\d+) bytes spill", part))),
        }
    return found


def kind(name: str) -> str:
    return next(kind for kind in THREADS if f"{kind}_kernel" in name)


def test_no_kernel_spills(compiled):
    found = kernels(compiled[0])
    assert {kind(name) for name in found} == set(THREADS)
    assert sum("search_kernel" in name for name in found) == 6  # two operand types, three tile heights
    assert {name: use for name, use in found.items() if use["spills"]} == {}


def test_registers_allow_the_intended_occupancy(compiled):
    for name, use in kernels(compiled[0]).items():
        warps = THREADS[kind(name)] // 32
        registers = -(-use["registers"] * 32 // 256) * 256 * warps  # allocated by the warp, in units of 256
        assert registers * BLOCKS[kind(name)] <= 65536, (name, use)


@pytest.mark.skipif(CUOBJDUMP is None, reason="no cuobjdump")
def test_tensor_cores_and_asynchronous_copies_are_used(compiled):
    machine_code = subprocess.run([CUOBJDUMP, "-sass", str(compiled[1])], capture_output=True, text=True, check=True).stdout
    functions = machine_code.split("Function : ")[1:]
    searches = [text for text in functions if "search_kernel" in text.splitlines()[0]]
    assert len(searches) == 6
    for text in searches:
        suffix = "BF16" if "BFloat16Operand" in text.splitlines()[0] else ""
        assert re.search(rf"HMMA\.16816\.F32{'.' + suffix if suffix else ''}", text)
        assert re.search(r"LDGSTS\.E\.[A-Z.]*128", text), "no 16-byte asynchronous copies"
        assert "LDSM.16.M88.4" in text
        assert not re.search(r"\b(LDL|STL)\b", text), "local memory in the search"
