"""The CPU engine under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer. Any finding fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from engine_outputs import SIMD

pytestmark = pytest.mark.slow  # compiles the engine anew

ROOT = Path(__file__).parents[2]
FOUND = {
    "lying-shape": "AddressSanitizer: heap-buffer-overflow",
    "odd-address": "runtime error: load of misaligned address",
    "shared-output": "ThreadSanitizer: data race",
}


def compiles(sanitizer: str, folder: Path) -> bool:
    """Whether this machine's compiler has the sanitizer, with its library, and its programs run."""
    (folder / "empty.cpp").write_text("int main() { return 0; }\n")
    program = folder / "empty"
    command = [os.environ.get("CXX", "c++"), f"-fsanitize={sanitizer}", str(folder / "empty.cpp"), "-o", str(program)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        return False
    return subprocess.run([program], capture_output=True).returncode == 0


def build(sanitizer: str, folder: Path) -> Path:
    """The program engine_checks (tests/programs/engine_checks.cpp) under a sanitizer."""
    if not (ROOT / "csrc").exists():
        pytest.skip("the tests do not run from a source checkout")
    for name in ("cmake", os.environ.get("CXX", "c++")):
        if shutil.which(name) is None:
            pytest.skip(f"no {name} command on the PATH")
    if not compiles(sanitizer, folder):
        pytest.skip(f"{os.environ.get('CXX', 'c++')} has no -fsanitize={sanitizer} here, or programs built with it do not run")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), *generator, f"-DFASTSPADE_SANITIZE={sanitizer}"],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    return folder / "engine_checks"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return build("address,undefined", tmp_path_factory.mktemp("address"))


@pytest.fixture(scope="module")
def thread(tmp_path_factory):
    return build("thread", tmp_path_factory.mktemp("thread"))


def run(program: Path, what: str, simd: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("SAN_OPTIONS")}
    environment |= {} if simd is None else {"FASTSPADE_SIMD": simd}
    return subprocess.run([program, what], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_nothing_is_read_or_written_outside_its_memory(address):
    usable = [simd for simd in SIMD if run(address, "name", simd).stdout.strip() == simd]
    assert "generic" in usable
    for simd in usable:  # one by one: threads of several that wait for each other would take processors from those that work
        ended = run(address, "layouts", simd)
        assert ended.returncode == 0, ended.stdout[-4000:]
        assert ended.stdout.count(", 0 ") == 3, ended.stdout  # layouts, numbers of neighbours, failures


def test_threads_do_not_race(thread):
    ended = run(thread, "concurrent")
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert "searches at once, 0 wrong" in ended.stdout


@pytest.mark.parametrize("misuse", FOUND)
def test_a_planted_fault_is_found(misuse, request, record_fault):
    program = request.getfixturevalue("thread" if misuse == "shared-output" else "address")
    ended = run(program, misuse)
    assert ended.returncode != 0 and FOUND[misuse] in ended.stdout
    tried = "the CPU engine under sanitizers, given a shape that lies, an odd address or an output that two searches share"
    record_fault(tried, 1, "found, the program ends")
