"""benchmarks/gpu_session.sh keeps its order, its time limits and its results; with stand-ins for all it calls."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from layout_cases import LAYOUT_CASES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_session.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None or shutil.which("timeout") is None, reason="no bash or no timeout")

RUNS = """build test_operators test_engines_sm80 test_engines_sm90a test_cuda sanitize_memcheck_sm80 sanitize_memcheck_sm90a
sanitize_racecheck_sm80 sanitize_racecheck_sm90a bench_short_sm80 bench_short_sm90a bench_full_sm80 bench_full_sm90a
bench_real_sm80 bench_real_sm90a profile_sm80 profile_sm90a""".split()


def session(folder: Path, step: str, *, sanitizer: str = "exit 0", capability: str = "echo 90", **seconds: str):
    """The script's exit status, its runs as (name, exit status), in order, and where its results are."""
    programs, out = folder / "programs", folder / "out"
    programs.mkdir()
    stand_ins = {
        "python3": f'case "$*" in *get_device_capability*) {capability} ;; *shared_memory*) echo 227 ;; *) echo "$FASTSPADE_CUDA_PATH: $*" ;; esac',
        "compute-sanitizer": sanitizer,
        "nvcc": "exit 0",
        "ncu": "exit 1",
    }
    for name, body in stand_ins.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    environment = {**os.environ, **seconds, "PATH": f"{programs}:{os.environ['PATH']}"}
    ended = subprocess.run(["bash", SCRIPT, step, out], capture_output=True, text=True, env=environment, timeout=60)
    lines = (out / "gpu_runs.txt").read_text().splitlines() if (out / "gpu_runs.txt").exists() else []
    return ended.returncode, [(line.split()[1].rstrip(":"), int(line.split()[3])) for line in lines], out


def test_all_runs_in_order_and_one_failure_stops_nothing(tmp_path):
    status, runs, out = session(tmp_path, "all")
    assert [name for name, _ in runs] == RUNS
    assert status == 1 and {name for name, code in runs if code} == {"profile_sm80", "profile_sm90a"}
    assert "sm90a: benchmarks/search_cuda.py --cases full" in (out / "gpu_bench_full_sm90a.log").read_text()


def test_a_slow_sanitizer_ends_with_its_own_time(tmp_path):
    status, runs, out = session(tmp_path, "all", sanitizer="echo started; sleep 50", SANITIZE_SECONDS="3", capability="echo 80")
    found = dict(runs)
    assert [name for name, _ in runs] == [name for name in RUNS if "sm90a" not in name]
    assert found["sanitize_memcheck_sm80"] == found["sanitize_racecheck_sm80"] == 124 and status == 1
    assert all(code == 0 for name, code in runs if name.startswith(("build", "test", "bench")))
    assert (out / "gpu_sanitize_memcheck_sm80.log").read_text() == "started\n"


def test_sanitizers_run_the_cases_that_reach_this_device_s_layouts(tmp_path):
    _, runs, out = session(tmp_path, "sanitize", sanitizer='echo "$@"')
    assert len(runs) == 4
    for name, _ in runs:
        device = "sm90a" if name.endswith("sm90a") else "227k"
        command = (out / f"gpu_{name}.log").read_text()
        assert "tests/cuda/test_cuda_layouts.py -p no:cacheprovider -k" in command
        assert command.endswith(f"or test_layout_matches_float64_brute_force and {device}\n")
        assert [case for case in LAYOUT_CASES if device in case.name] == [case for case in LAYOUT_CASES if device in case.devices.split()] != []


def test_a_run_for_which_no_time_is_left_is_told(tmp_path):
    status, runs, out = session(tmp_path, "sanitize", SANITIZE_SECONDS="0", capability="echo 80")
    assert status == 1 and [code for _, code in runs] == [124, 124]
    assert (out / "gpu_sanitize_racecheck_sm80.log").read_text() == "no time left\n"


def test_nothing_is_built_without_a_device(tmp_path):
    status, runs, _ = session(tmp_path, "all", capability="exit 1")
    assert status == 1 and runs == []
