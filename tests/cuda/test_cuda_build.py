"""What the CUDA compiler made of the kernels in the installed extension, for every architecture that it was built for: no spills,
resources that allow the intended launches, tensor-core instructions and 16-byte asynchronous copies. Needs cuobjdump, not a GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from machine_code import cuobjdump, dumped

from fastspade.search.cpu import compiled_engine
from fastspade.search.cuda import has_cuda_engine

CSRC = Path(__file__).parents[2] / "csrc"
pytestmark = [
    pytest.mark.skipif(not has_cuda_engine(), reason="this build of fastspade has no CUDA engine"),
    pytest.mark.skipif(cuobjdump() is None, reason="no cuobjdump"),
    pytest.mark.slow,
]

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
THREADS |= {"equal": 256, "repeat": 256, "direction": 256, "orthonormal": 1024, "project": 256, "told": 256}
# Blocks per multiprocessor that registers must allow: the search is planned as one, its smallest tile as one beside another
# kernel's; the others hide their memory latency behind warps.
BLOCKS = {"search": 1, "redo": 3, "finish": 3, "terms": 2, "operand": 3, "largest": 3, "centre": 2, "scale": 1, "schedule": 1}
BLOCKS |= {"equal": 2, "repeat": 4, "direction": 2, "orthonormal": 1, "project": 3, "told": 2}
STACK = {"terms": 64, "schedule": 96}  # bytes of a thread's, for arrays that are indexed at run time
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


@pytest.fixture(scope="module")
def code() -> dict[str, list[str]]:
    """Architecture -> machine code, of the kernels that all devices share."""
    return {
        architecture: functions
        for architecture, functions in dumped("-sass", compiled_engine().__file__).items()
        if architecture != "90a"
    }


@pytest.fixture(scope="module")
def code_sm90() -> list[str]:
    """Machine code of Hopper's search."""
    found = dumped("-sass", compiled_engine().__file__).get("90a")
    if found is None:
        pytest.skip("the extension was not built for sm_90a")
    return found


@pytest.fixture(scope="module")
def registers() -> dict[str, dict[str, tuple[int, int]]]:
    """Architecture -> mangled kernel name -> registers, and bytes of a thread's stack, where spilled registers go."""
    return {
        architecture: {
            text.split(":")[0].strip(): tuple(int(re.search(rf"{word}:(\d+)", text)[1]) for word in ("REG", "STACK"))
            for text in functions
        }
        for architecture, functions in dumped("-res-usage", compiled_engine().__file__).items()
    }


def kind(name: str) -> str:
    return next(kind for kind in (*THREADS, "search_sm90") if f"{kind}_kernel" in name)


def test_every_architecture_has_every_kernel_and_none_spills(registers):
    assert registers
    for architecture, found in registers.items():
        if architecture == "90a":
            assert len(found) == 4 and all("search_sm90_kernel" in name for name in found)  # two operand types, two tile heights
        else:
            assert {kind(name) for name in found} == set(THREADS)
            assert sum("search_kernel" in name for name in found) == 12  # two operand types, three tile heights, two steps
        assert {name: stack for name, (_, stack) in found.items() if stack > STACK.get(kind(name), 0)} == {}, architecture


def test_registers_allow_the_intended_occupancy(registers):
    for architecture, found in registers.items():
        for name, (count, _) in found.items():
            if architecture == "90a":
                assert count == 168  # at entry: all that 384 threads can have
                continue
            warps = THREADS[kind(name)] // 32
            allocated = -(-count * 32 // 256) * 256 * warps  # by the warp, in units of 256
            assert allocated * BLOCKS[kind(name)] <= 65536, (architecture, name, count)


def test_tensor_cores_and_asynchronous_copies_are_used(code):
    for architecture, functions in code.items():
        searches = [text for text in functions if "search_kernel" in text.splitlines()[0]]
        assert len(searches) == 12
        for text in searches:
            suffix = "BF16" if "BFloat16Operand" in text.splitlines()[0] else ""
            assert re.search(rf"HMMA\.16816\.F32{'.' + suffix if suffix else ''}", text), architecture
            assert re.search(r"LDGSTS\.E\.[A-Z.]*128", text), "no 16-byte asynchronous copies"
            assert "LDSM.16.M88.4" in text
            assert not re.search(r"\b(DADD|DMUL|DFMA|DSETP|MUFU\.RCP64H)\b", text), "float64, which most GPUs have little of"
            assert not re.search(r"\b(LDL|STL)\b", text), "local memory in the search"


def test_interpolation_rounds_where_the_cpu_s_does(code):
    """No product of a size's ratio and a position is fused with the half pixel that is taken off."""
    for architecture, functions in code.items():
        for text in functions:
            halves = re.findall(r"\b(DADD|DFMA) [^;]*, -0\.5 ;", text)
            assert "DFMA" not in halves, (architecture, text.splitlines()[0])
            assert kind(text.splitlines()[0]) not in ("finish", "redo", "equal", "operand", "terms", "schedule") or halves


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


def test_features_are_loaded_several_at_a_time(code):
    for architecture, functions in code.items():
        for text in functions:
            wanted = LOADS.get(kind(text.splitlines()[0]))
            if wanted:
                found = [count for count in loads_before_use(text) if count > 1]
                # Newer architectures have loops unrolled more often, of the same batches; from 100 on some in halves.
                halves = {8} if int(architecture) >= 100 else set()
                assert set(found) | halves == set(wanted) | halves and len(found) >= len(wanted), (
                    architecture, text.splitlines()[0], found,
                )  # fmt: skip


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_nothing_makes_the_sm90_search_wait_between_products(code_sm90, tmp_path):
    """The compiler says where it must serialise wgmma (C75xx) or drop the registers' redistribution."""
    command = ["nvcc", "-std=c++20", "-O3", f"-I{CSRC}", "-cubin", "-arch=sm_90a", str(CSRC / "cuda" / "engine_sm90.cu")]
    ended = subprocess.run([*command, "-o", str(tmp_path / "cubin")], capture_output=True, text=True)
    assert ended.returncode == 0 and "Potential Performance Loss" not in ended.stderr, ended.stderr


def test_the_sm90_search_s_machine_code_and_registers(code_sm90):
    assert len(code_sm90) == 4
    for text in code_sm90:
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
