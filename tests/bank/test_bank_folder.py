"""A bank in a folder: the same bits as in memory, changed durably, never rewritten, shared between writers and readers."""

from __future__ import annotations

import json
import os
import warnings

import pytest
import torch
from safetensors.torch import load_file
from tiny import TinyNet, assert_same_bits, picture, tiny_spade

from fastspade import Bank, Spade
from fastspade.bank.folder import BankFolder
from fastspade.bank.mapped import MappedFile
from fastspade.errors import BankLockedError, InputError, MissingFileError, ModelFileError


def load(path) -> Spade:
    return Spade.load(path, backbone=TinyNet(), device="cpu", progress=False)


def shards(path) -> dict[str, int]:
    """Every shard file with its inode, by which rewriting would be told."""
    return {entry.name: entry.stat().st_ino for entry in path.iterdir() if entry.name.startswith("shard-")}


@pytest.mark.parametrize(
    "options",
    [{}, {"kappa": 2, "image_score": "reweighted"}, {"window": 9}, {"storage_dtype": "float16"}, {"storage_dtype": "bfloat16"}],
)
def test_a_saved_bank_scores_as_in_memory(normal, tmp_path, options):
    model = tiny_spade(**options).fit(normal)
    model.calibrate()
    model.save(tmp_path / "bank")
    again = load(tmp_path / "bank")
    assert again.options() == model.options() and again.threshold == model.threshold and again.bank.ids == model.bank.ids
    assert again.bank.names == model.bank.names and again.bank.dtype == model.bank.dtype
    assert_same_bits(model, again)
    assert again.calibrate() == model.threshold


def test_fitting_into_a_folder_is_fitting_and_saving(normal, tmp_path):
    model = tiny_spade().fit(normal, path=tmp_path / "bank")
    assert_same_bits(model, tiny_spade().fit(normal))
    assert_same_bits(load(tmp_path / "bank"), model)
    with pytest.raises(InputError, match="kappa"):
        tiny_spade(kappa=10_000).fit(normal, path=tmp_path / "other")
    assert not (tmp_path / "other").exists() and sorted(shards(tmp_path / "bank")) == sorted(shards(tmp_path / "bank"))


def test_adding_appends_and_removing_forgets(normal, tmp_path):
    path = tmp_path / "bank"
    tiny_spade().fit(normal[:4], path=path)
    model = load(path)
    before = shards(path)
    assert model.add(normal[4:]) == (4, 5)
    after = shards(path)
    assert before.items() <= after.items() and len(after) == 2  # nothing was written again
    model.remove([1])
    assert shards(path) == after
    assert_same_bits(load(path), tiny_spade().fit([normal[i] for i in (0, 2, 3, 4, 5)]))
    model.remove([4, 5])
    assert shards(path) == before  # a shard that nothing refers to is gone
    assert model.add(picture(9)) == (6,) and load(path).bank.ids == (0, 2, 3, 6)


@pytest.mark.filterwarnings("ignore:k=3")
def test_a_shard_of_which_most_is_gone_is_written_anew(normal, tmp_path):
    path = tmp_path / "bank"
    model = tiny_spade().fit(normal, path=path)
    before = shards(path)
    model.remove([0, 1, 2, 5])
    assert len(shards(path)) == 1 and not before.keys() & shards(path).keys()
    assert model.bank.ids == (3, 4)
    assert_same_bits(load(path), tiny_spade().fit(normal[3:5]))


def test_a_bank_that_grows_image_by_image_has_few_shards(normal, tmp_path):
    path = tmp_path / "bank"
    model = tiny_spade().fit(normal[:1], path=path)
    pictures = [picture(seed) for seed in range(200, 215)]
    for one in pictures:
        model.add(one)
    assert len(shards(path)) <= 5 and model.bank.ids == tuple(range(16))
    assert_same_bits(load(path), tiny_spade().fit([normal[0], *pictures]))


def test_merging_from_and_into_folders(normal, tmp_path):
    a, b = tiny_spade().fit(normal[:2], path=tmp_path / "a"), tiny_spade().fit(normal[2:4], path=tmp_path / "b")
    c = tiny_spade().fit(normal[4:])
    assert a.bank.merge(b.bank) == (2, 3) and a.bank.merge(c.bank) == (4, 5)
    assert_same_bits(load(tmp_path / "a"), tiny_spade().fit(normal))
    c.bank.merge(a.bank)
    assert len(c.bank) == 8 and c.bank.pyramid[0].shape[0] == 8


def test_saving_again_writes_only_the_options(normal, tmp_path):
    path = tmp_path / "bank"
    model = tiny_spade().fit(normal, path=path)
    before = shards(path)
    model.calibrate()
    model.save(path)
    assert shards(path) == before and load(path).threshold == model.threshold
    model.save(tmp_path / "one.safetensors")
    assert_same_bits(load(tmp_path / "one.safetensors"), load(path))


def test_saving_over_a_bank_replaces_it(normal, tmp_path):
    path = tmp_path / "bank"
    tiny_spade().fit(normal).save(path)
    before = shards(path)
    tiny_spade(k=2).fit(normal[:3]).save(path)
    assert len(load(path).bank) == 3 and load(path).k == 2 and not before.keys() & shards(path).keys()


def test_readers_keep_what_they_opened(normal, tmp_path):
    path = tmp_path / "bank"
    tiny_spade().fit(normal, path=path)
    reader, writer = load(path), load(path)
    snapshot = reader.bank.snapshot
    writer.remove([0, 1, 2, 3])
    assert reader.bank.ids == tuple(range(6))
    assert all(torch.equal(a, b) for a, b in zip(snapshot.pyramid, tiny_spade().fit(normal).bank.pyramid, strict=True))


def test_writers_in_turn_lose_nothing(normal, tmp_path):
    path = tmp_path / "bank"
    tiny_spade().fit(normal[:2], path=path)
    one, other = load(path), load(path)
    assert one.add(normal[2:4]) == (2, 3)
    assert other.add(normal[4:]) == (4, 5)  # takes up what the first one wrote
    assert other.bank.ids == (0, 1, 2, 3, 4, 5) and one.bank.ids == (0, 1, 2, 3)
    one.remove([0])
    assert one.bank.ids == (1, 2, 3, 4, 5)
    assert_same_bits(one, tiny_spade().fit(normal[1:]))


def test_two_writers_at_once(normal, tmp_path, record_fault):
    path = tmp_path / "bank"
    model = tiny_spade().fit(normal, path=path)
    with BankFolder(path).locked():
        for call in (
            lambda: model.add(normal),
            lambda: model.remove([0]),
            lambda: model.save(path),
            lambda: tiny_spade().fit(normal).save(path),
        ):
            with pytest.raises(BankLockedError, match=f"being written .process {os.getpid()}"):
                call()
        assert len(load(path).bank) == 6  # reading is free
    assert model.add(picture(1)) == (6,)
    record_fault("a bank that another writer holds is written", 4, "BankLockedError; the bank is unchanged")


def test_opening_reads_no_features_and_scoring_only_the_chosen(normal, tmp_path, monkeypatch):
    path = tmp_path / "bank"
    tiny_spade(k=2).fit(normal, path=path)
    read = []
    pread, copy = os.preadv, MappedFile.copy
    monkeypatch.setattr(
        os, "preadv", lambda file, buffers, at, flags=0: flags or read.append(sum(map(len, buffers))) or pread(file, buffers, at)
    )
    monkeypatch.setattr(MappedFile, "copy", lambda self, start, target: read.append(len(target)) or copy(self, start, target))
    model = load(path)
    image = 4 * sum(c * h * w for c, h, w in model.bank.level_shapes)
    assert max(read) <= 4096 < image
    read.clear()
    model.score(picture(100))
    assert read == [image] * 2


def test_a_file_like_name_that_becomes_a_folder_is_warned_of(normal, tmp_path):
    model = tiny_spade().fit(normal)
    with pytest.warns(UserWarning, match=r"x\.pt becomes a folder; a name ending in \.safetensors makes one file"):
        model.save(tmp_path / "x.pt")
    assert (tmp_path / "x.pt" / "manifest.json").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("x.pt", "folder", "one.safetensors"):  # the first is a folder by now
            model.save(tmp_path / name)


def test_shards_are_readable_with_safetensors_alone(normal, tmp_path):
    bank = tiny_spade(storage_dtype="bfloat16").fit(normal, path=tmp_path / "bank").bank
    (name,) = shards(tmp_path / "bank")
    tensors = load_file(tmp_path / "bank" / name)
    sizes = [c * h * w for c, h, w in bank.level_shapes]
    for part, level in zip(tensors["features"].split(sizes, dim=1), bank.pyramid, strict=True):
        assert torch.equal(part, level.flatten(1))
    assert torch.equal(tensors["embeddings"], bank.embeddings) and tensors["ids"].tolist() == list(bank.ids)
    assert json.loads((tmp_path / "bank" / "manifest.json").read_text())["bank"]["format"] == "fastspade-bank"


def test_features_of_ones_own_without_a_backbone(tmp_path):
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(3, 4, 6, 5, generator=generator), torch.randn(3, 7, 3, 2, generator=generator)]
    Bank(torch.randn(3, 9, generator=generator), levels, ["a", "ü", ""]).save(tmp_path / "bank")
    bank = Bank.open(tmp_path / "bank")
    bank.verify()
    assert bank.names == ("a", "ü", "") and all(torch.equal(a, b) for a, b in zip(bank.pyramid, levels, strict=True))
    with pytest.raises(InputError, match="no backbone"):
        bank.add(picture(1))
    with pytest.raises(ModelFileError, match="no model"):
        Spade.load(tmp_path / "bank")


def test_mistakes_are_named(normal, tmp_path):
    model = tiny_spade().fit(normal)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("mine")
    for call, kind, says in (
        (lambda: model.save(tmp_path / "mine"), InputError, "precious.txt"),
        (lambda: model.save(tmp_path / "no" / "where"), MissingFileError, "no does not exist"),
        (lambda: load(tmp_path / "mine"), MissingFileError, "no fastspade bank"),
        (lambda: load(tmp_path / "gone"), MissingFileError, "gone"),
        (lambda: Bank.open(tmp_path / "mine" / "precious.txt"), MissingFileError, "not a folder"),
    ):
        with pytest.raises(kind, match=says):
            call()
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"] and (tmp_path / "mine" / "precious.txt").exists()
    model.save(tmp_path / "bank")
    stored = load(tmp_path / "bank")
    for call in (
        lambda: stored.remove([9]),
        lambda: stored.remove(range(6)),
        lambda: stored.add([]),
        lambda: stored.add(tmp_path / "mine"),
    ):
        with pytest.raises((InputError, MissingFileError)):
            call()
    assert load(tmp_path / "bank").bank.ids == tuple(range(6)) and len(shards(tmp_path / "bank")) == 1
