"""The engines touch nothing outside the tensors they are given, at either end, and never write to what they read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_outputs import SIMD

PROGRAM = Path(__file__).parent / "guarded_searches.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is guarded with Linux's mprotect")
TRIED = "tensors that end or begin at memory that may not be touched, and may not be written"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, PROGRAM, *words], env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize("simd", SIMD)
def test_the_cpu_engine_stays_inside_its_tensors(simd):
    ended = run("cpu", FASTSPADE_SIMD=simd)
    if ended.returncode == 3:
        pytest.skip(f"this processor or build has no {simd} kernels")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.strip() == "912 of 912"


def test_tensors_are_guarded(record_fault):
    """With whichever instruction set this machine prefers, so that the counts are every machine's."""
    ended = run("cpu")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    record_fault(TRIED, int(ended.stdout.split()[0]), "the same bits as elsewhere")


@pytest.mark.parametrize("path", ["sm80", "sm90a"])
def test_the_cuda_engine_stays_inside_its_tensors(path, emulated):
    ended = run("emulated", emulated.__file__, FASTSPADE_CUDA_PATH=path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("fault", ["read-after", "read-before", "write-input"])
def test_a_planted_fault_ends_the_process(fault):
    assert run(fault).returncode == -signal.SIGSEGV
