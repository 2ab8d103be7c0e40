"""The NEON kernels, cross-compiled for 64-bit Arm and run under emulation: the same bits as on this machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # compiles for another processor

ROOT = Path(__file__).parents[2]
CORE = (
    "core/block_cache",
    "core/duplicates",
    "core/exact",
    "core/exact_kernels",
    "cpu/block_ranking",
    "cpu/cells",
    "cpu/coarse_tile",
    "cpu/dispatch",
    "cpu/few_queries",
    "cpu/gram",
    "cpu/mode",
    "cpu/projection",
    "cpu/quantised",
    "cpu/query_block",
    "cpu/region",
    "cpu/search",
    "cpu/search_candidates",
    "cpu/search_tiles",
    "cpu/thread_team",
)
KERNELS = {"cpu/kernels_generic": [], "cpu/kernels_generic_integer": []}
X86 = {
    "core/exact_avx512": ["-mavx512f", "-mavx512vl", "-ffp-contract=off"],
    "cpu/kernels_avx2": ["-mavx2", "-mfma"],
    "cpu/kernels_avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
}
X86["cpu/kernels_avx512_vnni"] = [*X86["cpu/kernels_avx512"], "-mavx512vnni"]


def build(compiler: str, definition: str, kernels: dict[str, list[str]], folder: Path) -> Path:
    """Compiles the engine and its test program as CMakeLists.txt does."""
    base = [compiler, "-std=gnu++20", "-O2", "-Wno-psabi", f"-I{ROOT / 'csrc'}", f"-D{definition}", "-c", "-o"]
    sources = {name: ["-ffp-contract=off"] for name in CORE} | {name: ["-ffp-contract=fast", *f] for name, f in kernels.items()}
    objects = []
    for name, flags in sources.items():
        objects.append(folder / (Path(name).name + ".o"))
        subprocess.run([*base, objects[-1], ROOT / "csrc" / f"{name}.cpp", *flags], check=True)
    program = folder / "engine"
    source = Path(__file__).parents[1] / "programs" / "engine_program.cpp"
    subprocess.run([*base[:6], "-pthread", "-static", source, *objects, "-o", program], check=True)
    return program


def run(command: list[str | Path], simd: str) -> str:
    ended = subprocess.run(command, env={**os.environ, "FASTSPADE_SIMD": simd}, capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == simd
    return ended.stdout


def test_neon_gives_the_same_bits(tmp_path):
    cross, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if cross is None or emulator is None:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user)")
    if platform.machine() not in ("x86_64", "AMD64") or shutil.which("g++") is None:
        pytest.skip("needs g++ on x86-64 for the results to compare with")
    if not (ROOT / "csrc").exists():
        pytest.skip("the tests do not run from a source checkout")
    folders = [tmp_path / name for name in ("here", "arm")]
    for folder in folders:
        folder.mkdir()
    here = build("g++", "FASTSPADE_X86", KERNELS | X86, folders[0])
    arm = build(cross, "FASTSPADE_NEON", KERNELS | {"cpu/kernels_neon": []}, folders[1])
    wanted = run([here], "generic")
    assert wanted.count("\n") > 5000
    for simd in ("neon", "generic"):
        assert run([emulator, arm], simd) == wanted
