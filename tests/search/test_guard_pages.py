"""The engines touch nothing outside the tensors they are given, at either end, and never write to what they read."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import guarded_searches
import pytest
from engine_outputs import SIMD
from planted_faults import in_a_process_of_its_own

PROGRAM = Path(guarded_searches.__file__)
pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="memory is guarded with Linux's mprotect"), pytest.mark.slow]
TRIED = "tensors that end or begin at memory that may not be touched, and may not be written"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, PROGRAM, *words], env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize("simd", SIMD)
def test_the_cpu_engine_stays_inside_its_tensors(simd, record_fault):
    if simd.startswith("neon") and platform.machine() in ("x86_64", "AMD64"):
        pytest.skip(f"this processor has no {simd} kernels")
    ended = run("cpu", FASTSPADE_SIMD=simd)
    if ended.returncode == 3:
        pytest.skip(f"this processor or build has no {simd} kernels")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    if simd == "generic":  # every machine has it, so that the table is the same everywhere
        record_fault(f"{TRIED}, given to the CPU engine", int(ended.stdout.split()[0]), "the same bits as elsewhere")


@pytest.mark.parametrize("path", ["sm80", "sm90a"])
def test_the_cuda_engine_stays_inside_its_tensors(path, emulated, record_fault):
    ended = run("emulated", emulated.__file__, FASTSPADE_CUDA_PATH=path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    tried = f"{TRIED}, given to the CUDA engine's kernels run on the host"
    record_fault(tried, int(ended.stdout.split()[0]), "the same bits as elsewhere")


@pytest.mark.parametrize("fault", ["read-after", "read-before", "write-input"])
def test_a_planted_fault_ends_the_process(fault, record_fault):
    assert in_a_process_of_its_own(guarded_searches.fault, fault) == [f"ended with status {-signal.SIGSEGV}"]
    record_fault("the CPU engine made to read before or after a tensor, or to write to its input", 1, "found, the process ends")
