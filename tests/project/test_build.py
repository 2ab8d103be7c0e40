"""The build's promises: what configuring says without a CUDA compiler, what is linked, and what the distributions hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import fastspade._engine

pybind11 = pytest.importorskip("pybind11")
pytestmark = pytest.mark.slow  # configures and builds

ROOT = Path(__file__).parents[2]


def configure(tmp_path, *options):
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake command on the PATH")
    if not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("the tests do not run from a source checkout")
    command = [cmake, "-S", str(ROOT), "-B", str(tmp_path), f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", *options]
    return subprocess.run([*command, f"-DPython_EXECUTABLE={sys.executable}"], capture_output=True, text=True, check=False)


def test_cuda_on_without_a_compiler_is_a_clear_error(tmp_path):
    ended = configure(tmp_path, "-DFASTSPADE_CUDA=ON", "-DCMAKE_CUDA_COMPILER=NOTFOUND")
    assert ended.returncode != 0 and "FASTSPADE_CUDA=ON, but" in ended.stderr


@pytest.mark.parametrize("value", ["OFF", "AUTO"])
def test_a_machine_without_a_cuda_compiler_builds_the_cpu_engine(tmp_path, value):
    ended = configure(tmp_path, f"-DFASTSPADE_CUDA={value}", "-DCMAKE_CUDA_COMPILER=NOTFOUND")
    assert ended.returncode == 0, ended.stderr


def test_an_unknown_cuda_setting_is_refused(tmp_path):
    ended = configure(tmp_path, "-DFASTSPADE_CUDA=MAYBE")
    assert ended.returncode != 0 and "must be AUTO, ON or OFF" in ended.stderr


def test_clang_builds_the_vector_code_too(tmp_path):
    """What both compilers read differently: clones of functions, and vectors that they pass to each other."""
    compiler = shutil.which("clang++")
    if compiler is None:
        pytest.skip("no clang++ command on the PATH")
    if not (ROOT / "csrc").exists():
        pytest.skip("the tests do not run from a source checkout")
    for source in ("core/exact_kernels.cpp", "cpu/few_queries.cpp", "cpu/search.cpp"):
        command = [compiler, "-std=c++20", "-O0", "-Wno-psabi", f"-I{ROOT / 'csrc'}", "-c", str(ROOT / "csrc" / source)]
        ended = subprocess.run([*command, "-o", str(tmp_path / "object.o")], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-2000:]


def test_the_extension_does_not_link_libtorch():
    if shutil.which("readelf") is None:
        pytest.skip("no readelf command on the PATH")
    needed = subprocess.run(["readelf", "-d", fastspade._engine.__file__], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed and "torch" not in needed and "c10" not in needed


def test_every_file_of_the_package_is_installed():
    """The report's page, the types and their mark, and every module."""
    source, installed = ROOT / "python" / "fastspade", Path(fastspade._engine.__file__).parent
    if not source.exists():
        pytest.skip("the tests do not run from a source checkout")
    wanted = {file.relative_to(source) for file in source.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert {Path("py.typed"), Path("_engine.pyi"), Path("evaluate/report/page/page.html")} <= wanted
    assert not {file for file in wanted if not (installed / file).exists()}


def test_the_source_distribution_holds_what_the_repository_does(tmp_path, monkeypatch):
    backend = pytest.importorskip("scikit_build_core.build", reason="scikit-build-core is not installed (extra 'test')")
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the tests do not run from a git checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / backend.build_sdist(str(tmp_path))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert not {name for name in tracked if (ROOT / name).exists() and not name.startswith(".ci/")} - held
