"""What the CUDA compiler made of the kernels: no spills, resources that allow the intended launches, tensor-core
instructions and 16-byte asynchronous copies in the machine code. Needs nvcc, not a GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
NVCC, CUOBJDUMP = shutil.which("nvcc"), shutil.which("cuobjdump")
if CUOBJDUMP is None and (triton := importlib.util.find_spec("triton")):  # a dependency of torch's CUDA build, with its own copy
    CUOBJDUMP = next(map(str, Path(triton.origin).parent.rglob("nvidia/bin/cuobjdump")), None)
pytestmark = [pytest.mark.skipif(NVCC is None, reason="no nvcc"), pytest.mark.slow]
needs_cuobjdump = pytest.mark.skipif(CUOBJDUMP is None, reason="no cuobjdump")

ARCHITECTURES = ["80", "86", "89", "90a"]
THREADS = {
    "search": 256,
    "redo": 128,
    "finish": 128,
    "schedule": 256,
    "centre": 256,
    "largest": 256,
    "scale": 256,
    "operand": 256,
    "terms": 256,
}
THREADS |= {"equal": 256, "repeat": 256}
# Blocks per multiprocessor that registers must allow: the search is planned as one, its smallest tile as one beside another
# kernel's; the others hide their memory latency behind warps.
BLOCKS = {"search": 1, "redo": 3, "finish": 3, "terms": 2, "operand": 3, "largest": 3, "centre": 2, "scale": 1, "schedule": 1}
BLOCKS |= {"equal": 2, "repeat": 4}
# Loads of features that must be under way before the first is used, a loop each: what is not mixed, and what is.
LOADS = {
    "finish": [16, 16],
    "redo": [16, 16],
    "equal": [16, 16],
    "terms": [16, 16, 8],
    "operand": [8, 8],
    "largest": [8],
    "centre": [8],
}


def compile_with_nvcc(source: str, architecture: str, target: Path) -> str:
    """Compiles one file of csrc/cuda for one architecture; the compiler's resource report."""
    ended = subprocess.run(
        [NVCC, "-std=c++20", "-O3", f"-I{CSRC}", "-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
        + ["-Xptxas", "-v", "-c", str(CSRC / "cuda" / source), "-o", str(target)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stderr


def machine_code(target: Path) -> list[str]:
    """Disassembly, a function at a time."""
    return subprocess.run([CUOBJDUMP, "-sass", str(target)], capture_output=True, text=True, check=True).stdout.split(
        "Function : "
    )[1:]


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda a: f"sm_{a}")
def compiled(request, tmp_path_factory):
    """(compiler's resource report, object file) for one architecture."""
    target = tmp_path_factory.mktemp("cuda") / "engine.o"
    return compile_with_nvcc("engine.cu", request.param, target), target


@pytest.fixture(scope="module")
def compiled_sm90(tmp_path_factory):
    """The same of the search for sm_90a."""
    target = tmp_path_factory.mktemp("cuda") / "engine_sm90.o"
    return compile_with_nvcc("engine_sm90.cu", "90a", target), target


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
    assert sum("search_kernel" in name for name in found) == 12  # two operand types, three tile heights, two steps
    assert {name: use for name, use in found.items() if use["spills"]} == {}


def test_registers_allow_the_intended_occupancy(compiled):
    for name, use in kernels(compiled[0]).items():
        warps = THREADS[kind(name)] // 32
        registers = -(-use["registers"] * 32 // 256) * 256 * warps  # allocated by the warp, in units of 256
        assert registers * BLOCKS[kind(name)] <= 65536, (name, use)


@needs_cuobjdump
def test_tensor_cores_and_asynchronous_copies_are_used(compiled):
    searches = [text for text in machine_code(compiled[1]) if "search_kernel" in text.splitlines()[0]]
    assert len(searches) == 12
    for text in searches:
        suffix = "BF16" if "BFloat16Operand" in text.splitlines()[0] else ""
        assert re.search(rf"HMMA\.16816\.F32{'.' + suffix if suffix else ''}", text)
        assert re.search(r"LDGSTS\.E\.[A-Z.]*128", text), "no 16-byte asynchronous copies"
        assert "LDSM.16.M88.4" in text
        assert not re.search(r"\b(LDL|STL)\b", text), "local memory in the search"


def loads_before_use(text: str) -> list[int]:
    """How many loads of features (all others are not LDG.CONSTANT) are under way where the first of them is used, from use to
    use through one kernel's machine code. A value is loaded by one of two instructions, of two and of four bytes."""
    pending: set[str] = set()
    found = []
    for line in re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", text):
        name, _, rest = re.sub(r"^@!?U?P\d+ +", "", line).partition(" ")
        operands = rest.split(",")
        writes = not name.startswith(("ST", "BAR", "BRA", "RED", "ATOM"))
        sources = set(re.findall(r"\bR\d+\b", ",".join(operands[1:] if writes else operands)))
        if sources & pending:
            found.append(len(pending))
            pending.clear()
        target = re.findall(r"\bR\d+\b", operands[0]) if writes else []
        if name.startswith("LDG") and "CONSTANT" in name:
            pending.add(target[0])
        else:
            pending.difference_update(target)
    return found


@needs_cuobjdump
def test_features_are_loaded_several_at_a_time(compiled):
    for text in machine_code(compiled[1]):
        wanted = LOADS.get(kind(text.splitlines()[0]))
        if wanted:
            assert [count for count in loads_before_use(text) if count > 1] == wanted, text.splitlines()[0]


def test_the_sm90_search_neither_spills_nor_waits_between_products(compiled_sm90):
    report, _ = compiled_sm90
    found = kernels(report)
    assert len(found) == 4 and all("search_sm90_kernel" in name for name in found)  # two operand types, two tile heights
    assert {name: use for name, use in found.items() if use["spills"]} == {}
    # What the compiler says where it must serialise wgmma (C75xx) or drop the registers' redistribution.
    assert "Potential Performance Loss" not in report, report
    for use in found.values():
        assert use["registers"] == 168  # at entry: all that 384 threads can have


@needs_cuobjdump
def test_the_sm90_search_s_machine_code_and_registers(compiled_sm90):
    searches = machine_code(compiled_sm90[1])
    assert len(searches) == 4
    for text in searches:
        suffix = ".BF16" if "BFloat16Operand" in text.splitlines()[0] else ""
        queries = 96 if "OperandELi3E" in text.splitlines()[0] else 128
        assert re.search(rf"HGMMA\.64x{queries}x16\.F32{suffix} ", text)
        assert "UTMALDG.2D" in text and "UTMALDG.4D" in text, "no bulk tensor copies"
        assert not re.search(r"\b(LDL|STL)\b", text), "local memory in the search"
        # Registers are redistributed as a multiprocessor has them: one producer and two consumer warpgroups.
        grown, shrunk = (
            int(re.search(rf"USETMAXREG\.{verb}\S* (?:UP\d, )?(0x[0-9a-f]+)", text)[1], 16) for verb in ("TRY_ALLOC", "DEALLOC")
        )
        assert 128 * (shrunk + 2 * grown) <= 128 * 3 * 168
        assert max(map(int, re.findall(r"\bR(\d{1,3})\b", text))) < grown
