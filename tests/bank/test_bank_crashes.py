"""Writers that are killed, disks that are full: the bank is the old one or the new one, and nothing else is left for long."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bank_writer import STEPS, bank_of, change, changed, features, litter, state_of
from tiny import tiny_spade

from fastspade.bank.folder import BankFolder
from fastspade.errors import FastspadeError, StorageError

pytestmark = pytest.mark.slow  # kills many writers


@pytest.mark.parametrize("action", ["save", "add", "remove"])
def test_a_writer_killed_at_every_step(action, tmp_path, record_fault):
    """SIGKILL, after which no line of Python tidies up; halfway through what is written too."""
    command = [sys.executable, str(Path(__file__).parents[1] / "programs" / "bank_writer.py"), str(tmp_path / "bank"), action]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    assert min(counts.values()) > 0
    record_fault(
        f"SIGKILL at a step of {action} on a bank in a folder",
        counts["before"] + counts["after"],
        "the old bank or the new one, whole",
    )


FAILING = {"stop": STEPS, "full disk": ("pwrite", "fsync", "replace")}


class Stopped(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("action", ["save", "add", "remove"])
@pytest.mark.parametrize("failure", ["stop", "full disk"])
def test_a_writer_stopped_at_every_step(action, failure, tmp_path, monkeypatch, record_fault):
    """Before every single call that changes the disk: the process ends there, or the call finds the disk full."""
    bank_of(features(9, 12)).save(tmp_path / "bank")
    change(tmp_path / "bank", "add", 1)
    old, outcomes = state_of(tmp_path / "bank"), []
    new = changed(*old, action, 2)
    while True:
        path, calls = tmp_path / f"copy{len(outcomes)}", [0]
        shutil.copytree(tmp_path / "bank", path)

        def counted(name, real):
            def call(*args, **kwargs):
                calls[0] += 1
                if failure == "stop" and calls[0] > len(outcomes):
                    raise Stopped
                if failure == "full disk" and name in FAILING[failure] and calls[0] == len(outcomes) + 1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in FAILING[failure]:
                patch.setattr(os, name, counted(name, getattr(os, name)))
            try:
                change(path, action, 2)
            except (Stopped, FastspadeError) as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        found = state_of(path)
        assert found in (old, new)
        if failure == "full disk":
            assert not litter(path) or found == new  # only tidying up has failed
            assert outcomes[-1] is None or (isinstance(outcomes[-1], StorageError) and "No space left" in str(outcomes[-1]))
        if calls[0] < len(outcomes):
            assert found == new
            break
        with BankFolder(path).locked():
            assert not litter(path)  # the next writer's first deed
        shutil.rmtree(path)
    assert len(outcomes) - outcomes.count(None) > 5
    what = "the writer ends" if failure == "stop" else "the disk is full"
    record_fault(f"{what} at a step of {action} on a bank in a folder", len(outcomes) - 1, "the old bank or the new one, whole")


@pytest.mark.parametrize("target", ["bank", "bank.safetensors"])
def test_a_full_disk(target, tmp_path, normal, record_fault):
    """A real one, as far as a process can have it: files may not grow beyond a limit."""
    model = tiny_spade().fit(normal)
    model.save(tmp_path / target)
    before = sorted((entry, entry.read_bytes()) for entry in tmp_path.rglob("*") if entry.is_file())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for size in (0, 1, 100, 5000, 20000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises(StorageError, match="cannot write .*File too large"):
                model.save(tmp_path / target)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert sorted(
                (entry, entry.read_bytes()) for entry in tmp_path.rglob("*") if entry.is_file() and entry.name != "lock"
            ) == [entry for entry in before if entry[0].name != "lock"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old_handler)
    record_fault(
        f"no room while saving a {'single file' if '.' in target else 'folder'}",
        5,
        "StorageError; the old model is intact and nothing is left over",
    )


def test_a_first_save_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        bank_of(features(3, 1)).save(tmp_path / "bank")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match="No space left"):
        bank_of(features(3, 1)).save(tmp_path / "bank")
    assert not list(tmp_path.iterdir())
