"""Who may write a bank, and what a writer that dies, a lost manifest, a copy or a damaged image leave of it."""

from __future__ import annotations

import copy
import errno
import fcntl
import gc
import os
import pickle
import signal
import stat
import subprocess
import sys

import pytest
import torch
from bank_writer import bank_of, features, litter
from tiny import TinyNet, assert_same_bits, picture, tiny_spade

from fastspade import Bank, Spade
from fastspade.bank.folder import BankFolder
from fastspade.bank.lock import held
from fastspade.cli import main
from fastspade.errors import BankLockedError, InputError, MissingFileError, ModelFileError, StorageError
from fastspade.files import atomic

HOLDER = """
import sys, time
from pathlib import Path
from fastspade.bank.folder import BankFolder
with BankFolder(sys.argv[1]).locked():
    (Path(sys.argv[1]) / f"shard-{'0' * 32}.safetensors").write_bytes(b"half written")
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    bank_of(features(3, 1)).save(tmp_path / "bank")
    return tmp_path / "bank"


@pytest.mark.slow
def test_a_killed_holder_holds_nothing(path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(BankLockedError, match=f"being written .process {holder.pid}"):
                Bank.open(path).remove([0])
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        finally:
            holder.kill()
    assert litter(path)
    Bank.open(path).remove([0])
    assert not litter(path) and Bank.open(path).ids == (1, 2)


def test_a_lock_file_that_was_exchanged_meanwhile_is_locked_again(path, monkeypatch):
    """A first writer that fails deletes its folder; who waited for its lock would hold a file that nobody else finds."""
    real, calls = fcntl.flock, []

    def flock(handle, how):
        if not calls:
            (path / "lock").unlink()
            (path / "lock").touch()
        calls.append(handle)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with BankFolder(path).locked(), pytest.raises(BankLockedError):
        Bank.open(path).remove([0])
    assert len(calls) > 3


def test_where_the_system_cannot_lock_the_reason_is_given(path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StorageError, match="No locks available"):
        Bank.open(path).remove([0])


def test_a_pipe_as_lock_file_is_an_error(path):
    (path / "lock").unlink()
    os.mkfifo(path / "lock")
    with held(path / "lock", path, create=True), pytest.raises(BankLockedError, match="being written; try"):
        Bank.open(path).remove([0])


def test_a_lost_manifest_costs_no_shard(path):
    bank = Bank.open(path)
    (path / "manifest.json").rename(path.parent / "manifest.json")
    for call in (lambda: bank.remove([0]), lambda: bank.merge(bank_of(features(2, 2)))):
        with pytest.raises(MissingFileError, match="no fastspade bank"):
            call()
    (path.parent / "manifest.json").rename(path / "manifest.json")
    bank = Bank.open(path)
    bank.verify()
    assert bank.names == ("1-0", "1-1", "1-2")


def test_what_a_manifest_exchanged_is_on_the_disk_before_anything_is_deleted(path, monkeypatch):
    (path / f"shard-{'0' * 32}.safetensors").write_bytes(b"of the state before")
    done, fsync, unlink = [], os.fsync, os.unlink
    monkeypatch.setattr(
        os, "fsync", lambda file: done.append("sync" if stat.S_ISDIR(os.fstat(file).st_mode) else "file") or fsync(file)
    )
    monkeypatch.setattr(os, "unlink", lambda *args, **more: done.append("unlink") or unlink(*args, **more))
    with BankFolder(path).locked():
        pass
    assert done == ["sync", "unlink"]


def test_a_change_that_may_not_outlive_a_power_cut_says_so(path, monkeypatch):
    real, calls = atomic.sync, []

    def sync(place):
        calls.append(place)
        if place == path and len(calls) == 3:  # shards' names, manifest, manifest's name
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(place)

    monkeypatch.setattr(atomic, "sync", sync)
    monkeypatch.setattr("fastspade.bank.folder.sync", sync)
    with pytest.raises(StorageError, match="has been written, but may be lost"):
        Bank.open(path).remove([0])
    assert Bank.open(path).ids == (1, 2)


def test_a_read_only_folder_is_read_and_nothing_else(path, monkeypatch):
    real = os.open

    def read_only(file, flags, *mode, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
        return real(file, flags, *mode, **more)

    monkeypatch.setattr(os, "open", read_only)
    bank = Bank.open(path)
    bank.verify()
    assert len(bank.pyramid[0]) == 3
    for call in (lambda: bank.remove([0]), lambda: bank.save(path), lambda: bank.merge(bank_of(features(2, 2)))):
        with pytest.raises(StorageError, match="Read-only"):
            call()
    assert bank.ids == (0, 1, 2)


@pytest.mark.parametrize("copied", [lambda bank: pickle.loads(pickle.dumps(bank)), copy.deepcopy])
def test_a_copy_of_a_bank_opens_its_own_files(copied, tmp_path, path):
    first = Bank.open(path)
    kept = first.levels(torch.arange(3))
    bank = copied(first)
    del first
    gc.collect()
    bank_of(features(3, 2)).save(tmp_path / "other")
    other = Bank.open(tmp_path / "other")  # gets the descriptor that has become free
    assert all(torch.equal(a, b) for a, b in zip(bank.levels(torch.arange(3)), kept, strict=True))
    assert not torch.equal(other.levels(torch.arange(3))[0], kept[0])


def test_a_pickle_that_outlived_its_bank_is_an_error(path):
    data = pickle.dumps(Bank.open(path))
    bank_of(features(3, 2)).save(path)
    with pytest.raises(ModelFileError, match="is gone: the bank was changed"):
        pickle.loads(data)


def test_a_damaged_image_does_not_undo_what_was_added(path):
    (shard,) = path.glob("shard-*")
    with open(shard, "r+b") as file:
        file.seek(5000)  # among the features, which follow the header's page
        file.write(b"damage")
    bank = Bank.open(path)
    assert bank.merge(bank_of(features(4, 2))) == (3, 4, 5, 6)  # folding the two shards into one would read the damaged one
    assert Bank.open(path).ids == tuple(range(7))
    with pytest.raises(ModelFileError, match="1-0 have been altered"):
        bank.verify()


def test_a_manifest_that_hardly_says_what_made_the_bank_merges_with_none(tmp_path):
    for name, made_by in (("a", {"backbone": {}}), ("b", {"backbone": {"name": "resnet18"}, "resize": 256})):
        bank = bank_of(features(3, 1))
        bank._made_by = made_by
        bank.save(tmp_path / name)
    a, b = Bank.open(tmp_path / "a"), Bank.open(tmp_path / "b")
    with pytest.raises(InputError, match="resize"):
        a.merge(b)
    with pytest.raises(InputError, match="resize"):
        a.merge(tiny_spade().fit(picture(1)).bank)


@pytest.mark.parametrize("ids", [torch.tensor([0, 2]), torch.tensor([0, 2]).numpy(), [torch.tensor(0), 2], {0, 2}])
def test_ids_of_any_whole_number_type(path, ids):
    bank = Bank.open(path)
    bank.remove(ids)
    assert bank.ids == (1,)
    with pytest.raises(InputError, match="ids must be whole numbers"):
        bank.remove(["1-1"])
    with pytest.raises(InputError, match="ids must be whole numbers"):
        bank.remove(1.0)


@pytest.mark.filterwarnings("ignore:the threshold")
def test_of_two_commands_on_one_file_the_second_is_told(folder, normal, tmp_path, capsys, monkeypatch):
    """Both would read the file, and the one that wrote last would lose what the other had added."""
    path = tmp_path / "model.safetensors"
    tiny_spade().fit(normal).save(path)
    whole = Spade.load
    monkeypatch.setattr(Spade, "load", classmethod(lambda _, *args, **more: whole(*args, backbone=TinyNet(), **more)))
    with held(path, path):
        for command in (["add", str(path), str(folder)], ["remove", str(path), "0"]):
            assert main([*command, "--device", "cpu", "--quiet"]) != 0
            assert f"{path} is being written" in capsys.readouterr().err
    assert main(["remove", str(path), "0", "--device", "cpu", "--quiet"]) == 0
    assert_same_bits(whole(path, backbone=TinyNet(), device="cpu", progress=False), tiny_spade().fit(normal[1:]))


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_files_have_the_permissions_that_the_process_gives_new_files(tmp_path, normal, umask, mode):
    model = tiny_spade().fit(normal)
    before = os.umask(umask)
    try:
        model.save(tmp_path / "bank")
        model.save(tmp_path / "model.safetensors")
    finally:
        os.umask(before)
    files = [entry for entry in tmp_path.rglob("*") if entry.is_file()]
    assert len(files) == 4 and {stat.S_IMODE(entry.stat().st_mode) for entry in files} == {mode}
