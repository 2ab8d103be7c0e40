"""The emulated machine that the CUDA kernels are tested on is itself tested: tests/cuda/emulator/selftest*.cpp, check by check."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from emulated_engine import MACHINE

pytestmark = pytest.mark.slow  # compiles the emulated device and its checks

ROOT = Path(__file__).parents[2]
EMULATOR = ROOT / "tests" / "cuda" / "emulator"

CHECKS = [
    "places",
    "orders",
    "shared_memory_starts_as_nans",
    "block_barriers",
    "warp_barriers",
    "block_votes",
    "ended_threads_do_not_hold_a_barrier",
    "shuffles",
    "ballots",
    "atomics",
    "bits",
    "halves",
    "bfloat16s",
    "pairs_of_halves",
    "piped_copies",
    "copies_land_by_seed",
    "waits_count_groups",
    "copies_fill_with_zeros",
    "fragment_loads",
    "fragment_products",
    "matrix_products",
    "refused_shapes",
    "refused_addresses",
    "refused_copies",
    "refused_divergence",
    "kernels_may_throw",
    "mbarriers",
    "a_new_mbarrier_has_ended_a_phase_of_parity_one",
    "tensor_loads",
    "tensor_loads_land_by_seed",
    "warpgroup_products",
    "named_barriers",
    "refused_mbarriers",
    "refused_tensor_loads",
    "refused_tensor_maps",
    "refused_products",
    "refused_named_barriers",
]


def build(folder: Path, *options: str) -> Path:
    """The self test's program, compiled in `folder`."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the emulator's self test with")
    target = folder / "selftest"
    command = [compiler, "-std=c++20", "-DFASTSPADE_EMULATE", *options]
    sources = [EMULATOR / name for name in ("selftest.cpp", "selftest_hopper.cpp")] + [ROOT / name for name in MACHINE]
    command += [f"-I{ROOT / 'csrc'}", f"-I{EMULATOR}", *map(str, sources), "-o", str(target)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return target


def run(program: Path, *words: str) -> str:
    ended = subprocess.run([program, *words], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, f"exit status {ended.returncode}: {ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def selftest(tmp_path_factory):
    return build(tmp_path_factory.mktemp("selftest"), "-O1")


@pytest.mark.parametrize("name", CHECKS)
def test_check(selftest, name):
    run(selftest, name)


def test_every_check_is_run_here(selftest):
    assert run(selftest, "--list").split() == CHECKS


def test_an_unknown_check_is_an_error(selftest):
    with pytest.raises(AssertionError, match="no check is called 'nonsense'"):
        run(selftest, "nonsense")


def test_all_checks_where_fibres_switch_through_ucontext(tmp_path):
    """What processors without a hand-written switch use."""
    run(build(tmp_path, "-O0", "-DFASTSPADE_UCONTEXT"))
