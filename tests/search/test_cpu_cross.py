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
CORE = ("core/exact_kernels", "cpu/dispatch", "cpu/few_queries", "cpu/search")
# As CMakeLists.txt has them: floats a vector, vectors a lane and a row panel, which integers pay; options.
KERNELS = {"generic": ((4, 2, 4, 0), []), "generic_integer": ((4, 2, 4, 2), [])}
NEON = {"neon": ((4, 4, 6, 0), []), "neon_dot": ((4, 4, 6, 1), ["-march=armv8.2-a+dotprod"])}
SIZES = ("FLOATS", "LANE_VECTORS", "ROWS", "INTEGERS")


def build(compiler: str, definition: str, kernels: dict[str, tuple], folder: Path) -> Path:
    """Compiles the engine and its test program as CMakeLists.txt does."""
    base = [compiler, "-std=gnu++20", "-O2", "-Wno-psabi", f"-I{ROOT / 'csrc'}", f"-D{definition}", "-c", "-o"]
    sources = [(name, name, ["-ffp-contract=off"]) for name in CORE]
    for name, (sizes, options) in kernels.items():
        defined = [f"-DFASTSPADE_{key}={value}" for key, value in zip(SIZES, sizes, strict=True)]
        options = ["-ffp-contract=fast", f"-DFASTSPADE_SET={name}", *defined, *options]
        sources.append((f"kernels_{name}", "cpu/kernels_table", options))
    objects = []
    for name, source, flags in sources:
        objects.append(folder / (Path(name).name + ".o"))
        subprocess.run([*base, objects[-1], ROOT / "csrc" / f"{source}.cpp", *flags], check=True)
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
    here = build("g++", "FASTSPADE_NO_SET", KERNELS, folders[0])  # the generic kernels alone
    arm = build(cross, "FASTSPADE_NEON", KERNELS | NEON, folders[1])
    wanted = run([here], "generic")
    assert wanted.count("\n") > 5000
    for simd in ("neon", "neon_dot", "generic"):
        assert run([emulator, arm], simd) == wanted
