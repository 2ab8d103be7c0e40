"""Features come out of a memory map: the same bytes, only when they are needed, and no signal where the file is cut short."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bank_writer import bank_of, features
from tiny import picture, tiny_spade

from fastspade import Bank
from fastspade.bank.mapped import MappedFile

CUT = """
import os, sys, torch
from types import SimpleNamespace
from fastspade import Bank
from fastspade.errors import ModelFileError

folder, when, length = sys.argv[1], sys.argv[2], int(sys.argv[3])
bank = Bank.open(folder)
if when != "before any reading":
    bank.levels(torch.tensor([0]))
shard, = [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("shard-")]
os.truncate(shard, length)
if when == "after its length was looked at":
    os.fstat = lambda file: SimpleNamespace(st_size=1 << 40)
try:
    bank.levels(torch.tensor([11]))
except ModelFileError as error:
    print(error)
"""
CUTS = [("before any reading", 5000), ("after a reading", 4096 + 11 * 18432 + 7), ("after its length was looked at", 0)]


@pytest.fixture
def folder(tmp_path):
    bank_of(features(12, 1)).save(tmp_path / "bank")
    return tmp_path / "bank"


def maps_of(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.fixture
def mapped(folder):
    """Skips where this system or file system cannot map."""
    shard = next(folder.glob("shard-*"))
    with open(shard, "rb") as file:
        try:
            MappedFile(file.fileno(), os.path.getsize(shard))
        except (OSError, ValueError) as error:
            pytest.skip(f"files cannot be mapped here: {error}")


@pytest.mark.slow
@pytest.mark.parametrize(("when", "length"), CUTS)
def test_a_shard_cut_short_under_an_open_bank_is_an_error_and_no_signal(folder, when, length, record_fault):
    done = subprocess.run([sys.executable, "-c", CUT, str(folder), when, str(length)], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert "is not a usable shard" in done.stdout and "ends early" in done.stdout
    record_fault("a shard cut short while the bank is open", 1, "ModelFileError, never a signal")


def test_a_bank_is_mapped_when_features_are_first_needed(folder, mapped):
    bank = Bank.open(folder)
    assert maps_of(folder) == 0
    bank.levels(torch.tensor([3]))
    assert maps_of(folder) == 1
    del bank
    assert maps_of(folder) == 0


def test_what_was_read_is_no_longer_mapped_in(tmp_path, mapped):
    part = features(200, 1)  # 3.7 MB
    bank_of(part).save(tmp_path / "large")
    bank = Bank.open(tmp_path / "large")
    for image in torch.randperm(200):
        bank.levels(image[None])
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if str(tmp_path / "large") in line)
    resident = next(line for line in lines[start:] if line.startswith("Rss:"))
    assert int(resident.split()[1]) == 0


def test_mapped_and_positioned_reading_give_the_same_features(folder, mapped, monkeypatch):
    found = Bank.open(folder).pyramid

    def refuse(self, file, size):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))  # as file systems that cannot map say

    monkeypatch.setattr(MappedFile, "__init__", refuse)
    bank = Bank.open(folder)
    for mine, theirs, wanted in zip(bank.pyramid, found, features(12, 1).pyramid, strict=True):
        assert torch.equal(mine, theirs) and torch.equal(mine, wanted)
    assert maps_of(folder) == 0


def test_a_mapped_bank_survives_pickling_forking_and_its_files_deletion(tmp_path, mapped):
    model = tiny_spade().fit([picture(seed) for seed in range(5)], path=tmp_path / "model")
    wanted = model.score([picture(9)]).anomaly_maps
    again = pickle.loads(pickle.dumps(model.bank))
    assert all(torch.equal(a, b) for a, b in zip(again.pyramid, model.bank.pyramid, strict=True))
    old = again.snapshot
    model.remove(model.bank.ids[:4])  # the shard is written anew, and the old one deleted
    assert not Path(old.levels._shards[0].path).exists()
    child = os.fork()
    if child == 0:
        os._exit(0 if all(level.isfinite().all() for level in old.levels.gather(torch.arange(5))) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(old.pyramid[0]) == 5 and np.isfinite(wanted).all()
