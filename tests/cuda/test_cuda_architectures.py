"""cmake/cuda_architectures.cmake: what is compiled for, asked of stand-ins for every nvcc there is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CMAKE = Path(__file__).parents[2] / "cmake"
pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake command on the PATH")

# What `nvcc --list-gpu-arch` names.
NVCC = {
    "9.2": None,  # it has no such option
    "11.0": "50 60 70 75 80",
    "11.5": "35 50 60 70 75 80 86 87",
    "11.8": "35 50 60 70 75 80 86 87 89 90",
    "12.4": "50 60 70 75 80 86 87 89 90",
    "12.8": "50 60 70 75 80 86 87 89 90 100 101 120",
    "13.0": "75 80 86 87 88 89 90 100 110 103 120 121",
}


@pytest.fixture
def choose(tmp_path):
    """(architectures with the sm90a file, note, problem) that an nvcc of `version` and GPUs of `gpus` give for `asked`."""

    def call(version: str, asked: str = "", gpus: str | None = None) -> tuple[str, str, str]:
        programs = tmp_path / "programs"
        programs.mkdir(exist_ok=True)
        listed = NVCC[version]
        names = "exit 1" if listed is None else "\n".join(f"echo compute_{name}" for name in listed.split())
        bodies = {
            "nvcc": f'case "$1" in --version) echo "release {version}, V{version}.99" ;; *)\n{names}\n;; esac',
            "nvidia-smi": "exit 9" if gpus is None else "\n".join(f"echo {gpu}" for gpu in gpus.split()),
        }
        for name, body in bodies.items():
            (programs / name).write_text(f"#!/bin/sh\n{body}\n")
            (programs / name).chmod(0o755)
        script = tmp_path / "ask.cmake"
        script.write_text(f"""
            cmake_minimum_required(VERSION 3.22)
            include({CMAKE}/cuda_architectures.cmake)
            fastspade_ask_nvcc(nvcc version known)
            fastspade_visible_gpus(visible)
            fastspade_choose_architectures("{asked}" "${{version}}" "${{known}}" "${{visible}}")
            list(JOIN FASTSPADE_CUDA_PORTABLE " " portable)
            foreach(text "${{portable}} ${{FASTSPADE_CUDA_SM90A}}" "${{FASTSPADE_CUDA_NOTE}}" "${{FASTSPADE_CUDA_PROBLEM}}")
              execute_process(COMMAND ${{CMAKE_COMMAND}} -E echo "${{text}}")
            endforeach()""")
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        ended = subprocess.run(["cmake", "-P", script], capture_output=True, text=True, env=environment)
        assert ended.returncode == 0 and not ended.stderr, ended.stderr
        architectures, note, problem = ended.stdout.split("\n")[:3]
        return architectures.replace(" TRUE", " +sm90a").removesuffix(" FALSE"), note, problem

    return call


@pytest.mark.parametrize(
    ("version", "architectures", "unknown"),
    [
        ("11.0", "80", "90, 100, 120"),
        ("11.5", "80", "90, 100, 120"),
        ("11.8", "80-real 90", "100, 120"),
        ("12.4", "80-real 90 +sm90a", "100, 120"),
        ("12.8", "80-real 90-real 100-real 120 +sm90a", None),
        ("13.0", "80-real 90-real 100-real 120 +sm90a", None),
    ],
)
def test_by_default_an_nvcc_compiles_what_it_knows_and_the_rest_is_told(choose, version, architectures, unknown):
    found, note, problem = choose(version)
    assert (found, problem) == (architectures, "")
    assert ("does not know" in note) == (unknown is not None) and (unknown or "") in note


@pytest.mark.parametrize(
    ("gpus", "architectures"),
    [
        ("8.6", "80-real 86-real 90-real 100-real 120 +sm90a"),
        ("7.5 8.9 9.0", "80-real 89-real 90-real 100-real 120 +sm90a"),
        ("12.1", "80-real 90-real 100-real 120-real 121 +sm90a"),
    ],
)
def test_a_visible_gpu_gets_code_of_its_own(choose, gpus, architectures):
    assert choose("13.0", gpus=gpus) == (architectures, "", "")


@pytest.mark.parametrize(
    ("gpus", "version", "architectures"),
    [
        ("9.0 9.0", "13.0", "90 +sm90a"),
        ("8.9", "13.0", "89"),
        ("9.0 8.6 7.5", "13.0", "86-real 90 +sm90a"),
        ("12.0", "12.4", "90 +sm90a"),  # newer than nvcc: it compiles the newest PTX at first use
        ("9.0", "11.8", "90"),
    ],
)
def test_native_is_what_the_kernels_run_on_here_with_ptx(choose, gpus, version, architectures):
    assert choose(version, "native", gpus)[::2] == (architectures, "")


@pytest.mark.parametrize("gpus", [None, "7.5"])
def test_native_without_a_gpu_that_fits_is_a_problem(choose, gpus):
    assert "shows no GPU of compute capability 8.0" in choose("13.0", "native", gpus)[2]


def test_all_and_all_major_are_those_that_the_kernels_run_on(choose):
    assert choose("12.8", "all-major")[0] == "80-real 90-real 100-real 120 +sm90a"
    assert choose("12.8", "all")[0] == "80-real 86-real 87-real 89-real 90-real 100-real 101-real 120 +sm90a"


@pytest.mark.parametrize(
    ("asked", "architectures"),
    [
        ("90", "90 +sm90a"),
        ("80-real;90-real;90a-real", "80-real 90-real +sm90a"),
        ("90a", "90-real +sm90a"),
        ("90;90a", "90 +sm90a"),
        ("80-virtual", "80-virtual"),
        ("90-virtual", "90-virtual"),
        ("86;120", "86 120"),
    ],
)
def test_a_list_is_taken_as_it_is_and_hopper_s_search_goes_with_90(choose, asked, architectures):
    assert choose("13.0", asked)[::2] == (architectures, "")


@pytest.mark.parametrize("asked", ["75", "80;200", "sm_80", "nativ"])
def test_what_is_no_architecture_for_the_kernels_is_named(choose, asked):
    assert f"has '{asked.split(';')[-1]}', which must be native, all-major, all, or among" in choose("13.0", asked)[2]


def test_a_toolkit_that_is_too_old_for_all_is_a_problem(choose):
    assert "knows no architecture that the kernels run on" in choose("9.2")[2]
