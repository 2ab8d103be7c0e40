"""benchmarks/gpu_session.sh keeps its order, its time limits and its results; with stand-ins for all it calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from layout_cases import LAYOUT_CASES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_session.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None or shutil.which("timeout") is None, reason="no bash or no timeout")

RUNS = {
    "smoke": "build smoke_sm80 smoke_sm90a",
    "first": "build test_operators test_engines_sm80 test_engines_sm90a test_projections bench_short_sm80 bench_short_sm90a",
    "second": "build bench_full bench_real model profile_sm80 profile_sm90a ncu_sm80 ncu_sm90a",
    "third": "build sanitize_memcheck_sm80 sanitize_memcheck_sm90a sanitize_racecheck_sm80 sanitize_racecheck_sm90a test_cuda",
}


class Session:
    """A call of the script: its exit status, its runs by name, in order, with their ends, and the logs of its archive."""

    def __init__(
        self,
        folder: Path,
        step: str,
        capability: str = "echo 90",
        built: bool = False,
        environment: dict[str, str] | None = None,
        **tools: str,
    ):
        place, programs, out = folder / "place", folder / "programs", folder / "out"
        (place / "benchmarks").mkdir(parents=True)
        programs.mkdir()
        shutil.copy(SCRIPT, place / "benchmarks")
        if built:
            (place / "build" / "gpu-site" / "fastspade").mkdir(parents=True)
        asked = f"*get_device_capability*) {capability} ;; *shared_memory*) echo 227 ;;"
        says = f'case "$*" in {asked} *) echo "$FASTSPADE_CUDA_PATH: $*" ;; esac'
        working = 'case "$*" in *.ten_lines) exit 0 ;; esac; echo "$@"'
        compiles = 'while [ "$1" != -o ]; do shift; done; printf "#!/bin/sh\\n" >"$2"; chmod +x "$2"'
        stand_ins = {"python3": says, "compute-sanitizer": working, "ncu": working, "nvcc": compiles} | {
            name.replace("_", "-"): body for name, body in tools.items()
        }
        for name, body in stand_ins.items():
            (programs / name).write_text(f"#!/bin/sh\n{body}\n")
            (programs / name).chmod(0o755)
        wanted = {**os.environ, **(environment or {}), "PATH": f"{programs}:{os.environ['PATH']}"}
        ended = subprocess.run(
            ["bash", place / "benchmarks" / SCRIPT.name, step, out], capture_output=True, text=True, env=wanted, timeout=60
        )
        self.status, self.errors, self.logs = ended.returncode, ended.stderr, {}
        self.written = sorted(path.name for path in out.iterdir()) if out.exists() else []
        if self.written:
            with tarfile.open(out / f"gpu_session_{step}.tar.gz") as archive:
                self.logs = {
                    Path(member.name).name: archive.extractfile(member).read().decode() for member in archive if member.isfile()
                }
        lines = self.logs.get("runs.txt", "").splitlines()
        self.runs = {line.split()[1].rstrip(":"): line.split(": ", 1)[1] for line in lines}


@pytest.mark.parametrize("step", RUNS)
def test_each_step_builds_and_does_its_runs_in_order(tmp_path, step):
    session = Session(tmp_path, step)
    assert session.status == 0, session.errors
    assert list(session.runs) == RUNS[step].split() and all(end.startswith("exit 0") for end in session.runs.values())
    assert session.written == [f"gpu_session_{step}.tar.gz"]  # everything in one file
    assert {f"{name}.log" for name in session.runs} <= set(session.logs) and not [
        name for name in session.logs if name.startswith(".")
    ]


def test_a_failed_run_stops_nothing_and_is_told_in_the_end(tmp_path):
    session = Session(tmp_path, "second", ncu='case "$*" in *.ten_lines) ;; *) exit 7 ;; esac')
    assert session.status == 1 and list(session.runs) == RUNS["second"].split()
    assert {name for name, end in session.runs.items() if not end.startswith("exit 0")} == {"ncu_sm80", "ncu_sm90a"}
    assert session.logs["bench_full.log"].startswith(": benchmarks/search_cuda.py --cases full --paths sm80 sm90a --out ")


@pytest.mark.parametrize(("step", "tool"), [("second", "ncu"), ("third", "compute_sanitizer")])
@pytest.mark.parametrize("says", ["echo '==ERROR== ERR_NVGPUCTRPERM'", "echo no device; exit 3"])
def test_a_tool_that_fails_on_ten_lines_is_skipped_and_the_rest_is_done(tmp_path, step, tool, says):
    session = Session(tmp_path, step, **{tool: says})
    skipped = [name for name, end in session.runs.items() if end.startswith("skipped")]
    assert session.status == 0 and skipped == [name for name in RUNS[step].split() if name.startswith(("ncu", "sanitize"))]
    assert all(session.runs[name].endswith(says.split(";")[0].removeprefix("echo ").strip("'")) for name in skipped)
    assert list(session.runs) == RUNS[step].split()


def test_ncu_leaves_the_clocks_alone(tmp_path):
    session = Session(tmp_path, "second", capability="echo 80")
    assert "--clock-control none" in session.logs["ncu_sm80.log"] and "ncu_sm90a" not in session.runs


@pytest.mark.slow
def test_a_slow_run_ends_with_its_share_of_the_step(tmp_path):
    session = Session(tmp_path, "third", capability="echo 80", built=True, environment={"STEP_SECONDS": "4"},
                      compute_sanitizer='case "$*" in *.ten_lines) ;; *) echo started; sleep 50 ;; esac')  # fmt: skip
    assert session.runs["build"].startswith("skipped, build/gpu-site is there")
    assert [end.split()[1] for end in list(session.runs.values())[1:3]] == ["124", "124"] and session.status == 1
    assert session.logs["sanitize_memcheck_sm80.log"] == "started\n" and session.runs["test_cuda"].startswith("exit 0")


def test_a_call_cut_off_leaves_the_archive_of_what_ended(tmp_path):
    """As `timeout -s KILL` does; no trap runs."""
    killed = "*test_operators*) kill -9 $(ps -o ppid= -p $PPID) ;;"
    python = f'case "$*" in *get_device_capability*) echo 80 ;; {killed} *) echo "$*" ;; esac'
    session = Session(tmp_path, "first", python3=python)
    assert session.status == -9 and list(session.runs) == ["build"] and session.written == ["gpu_session_first.tar.gz"]
    assert "FASTSPADE_CUDA_ARCHITECTURES=80-real" in session.logs["build.log"]


def test_sanitizers_run_the_cases_that_reach_this_device_s_layouts(tmp_path):
    session = Session(tmp_path, "third")
    for name in [name for name in session.runs if name.startswith("sanitize")]:
        device = "sm90a" if name.endswith("sm90a") else "227k"
        command = session.logs[f"{name}.log"]
        assert "tests/cuda/test_cuda_layouts.py -p no:cacheprovider -k" in command
        assert command.endswith(f"or test_layout_matches_float64_brute_force and {device}\n")
        assert (
            [case for case in LAYOUT_CASES if device in case.name]
            == [case for case in LAYOUT_CASES if device in case.devices.split()]
            != []
        )


def test_a_run_for_which_no_time_is_left_is_told(tmp_path):
    session = Session(tmp_path, "smoke", built=True, environment={"STEP_SECONDS": "0"})
    assert session.status == 1 and [end.split()[1] for end in list(session.runs.values())[1:]] == ["124", "124"]
    assert session.logs["smoke_sm90a.log"] == "no time left\n"


def test_nothing_is_done_without_a_device_or_after_a_failed_build(tmp_path):
    session = Session(tmp_path / "none", "all", capability="exit 1")
    assert session.status == 1 and session.runs == {} and "torch sees no CUDA device" in session.errors
    python = 'case "$*" in *get_device_capability*) echo 90 ;; *) exit 1 ;; esac'
    session = Session(tmp_path / "failed", "first", python3=python)
    assert session.status == 1 and list(session.runs) == ["build"]


def test_files_that_it_names_are_there():
    text = SCRIPT.read_text()
    named = {
        word for word in text.replace('"', " ").split() if word.startswith(("benchmarks/", "tests/")) and word.endswith(".py")
    }
    assert len(named) >= 6 and all((SCRIPT.parents[1] / name).exists() for name in named)
