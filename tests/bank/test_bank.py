"""A bank that grows and shrinks equals one fitted at once, to the last bit; ids stay; readers see one state."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from tiny import LAYERS, TinyNet, assert_same_bits, picture, tiny_spade

from fastspade import Bank, Spade
from fastspade.errors import DtypeError, InputError

TEST = [picture(100), picture(101)]


@pytest.mark.parametrize("in_folder", [False, True], ids=["in memory", "in a folder"])
@pytest.mark.parametrize(
    "options", [{}, {"kappa": 3, "local_average": True}, {"storage_dtype": "float16"}, {"storage_dtype": "bfloat16"}]
)
def test_adding_equals_a_fresh_fit(normal, options, in_folder, tmp_path):
    grown = tiny_spade(**options).fit(normal[:3], path=tmp_path / "bank" if in_folder else None)
    assert grown.add(normal[3]) == (3,) and grown.add(normal[4:]) == (4, 5)
    assert_same_bits(grown, tiny_spade(**options).fit(normal))


@pytest.mark.parametrize("in_folder", [False, True], ids=["in memory", "in a folder"])
@pytest.mark.parametrize("storage_dtype", ["float32", "float16", "bfloat16"])
def test_removing_equals_a_fresh_fit_of_the_rest(normal, storage_dtype, in_folder, tmp_path):
    model = tiny_spade(storage_dtype=storage_dtype).fit(normal, path=tmp_path / "bank" if in_folder else None)
    model.remove([4, 0])
    assert model.bank.ids == (1, 2, 3, 5)
    assert_same_bits(model, tiny_spade(storage_dtype=storage_dtype).fit([normal[i] for i in (1, 2, 3, 5)]))


@pytest.mark.parametrize("in_folder", [False, True], ids=["in memory", "in a folder"])
@pytest.mark.parametrize("storage_dtype", ["float32", "float16", "bfloat16"])
def test_merging_equals_a_fresh_fit_of_both(normal, storage_dtype, in_folder, tmp_path):
    parts = (("a", normal[:2]), ("b", normal[2:]))
    model, other = (
        tiny_spade(storage_dtype=storage_dtype).fit(part, path=tmp_path / name if in_folder else None) for name, part in parts
    )
    assert model.bank.merge(other.bank) == (2, 3, 4, 5) and other.bank.ids == (0, 1, 2, 3)
    assert_same_bits(model, tiny_spade(storage_dtype=storage_dtype).fit(normal))


def test_nothing_is_computed_again(normal, monkeypatch):
    model = tiny_spade().fit(normal)
    seen = []
    whole = type(model.backbone).__call__
    monkeypatch.setattr(type(model.backbone), "__call__", lambda self, images: seen.append(len(images)) or whole(self, images))
    model.add(picture(9))
    model.remove([2])
    assert seen == [1]


def test_a_bank_that_grows_image_by_image_is_seldom_copied(normal, monkeypatch):
    bank = tiny_spade().fit(normal[:1]).bank
    places, seen = set(), [bank.snapshot]
    for i in range(60):
        bank.add(picture(i % 7))
        places.add(bank.pyramid[0].data_ptr())
        seen.append(bank.snapshot)
    assert len(places) < 15
    for before, after in zip(seen, seen[1:]):  # earlier snapshots stay as they were
        assert torch.equal(before.pyramid[1], after.pyramid[1][:-1]) and torch.equal(before.embeddings, after.embeddings[:-1])


def test_banks_of_one_snapshot_grow_apart(normal):
    bank = tiny_spade().fit(normal[:3]).bank
    bank.add(normal[3])
    others = [copy.copy(bank), copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))]
    for i, one in enumerate([bank, *others]):
        one.add(picture(20 + i))
    for i, one in enumerate([bank, *others]):
        assert torch.equal(one.pyramid[0], tiny_spade().fit([*normal[:4], picture(20 + i)]).bank.pyramid[0])
    assert len(pickle.dumps(bank)) < 1.5 * sum(level.nbytes for level in (bank.embeddings, *bank.pyramid))


def test_ids_are_never_given_twice(normal):
    bank = tiny_spade().fit(normal[:3]).bank
    bank.remove([2])
    assert bank.add(normal[2]) == (3,) and bank.ids == (0, 1, 3)
    bank.remove(3)
    assert bank.add(normal[3:5]) == (4, 5) and bank.ids == (0, 1, 4, 5) and len(bank) == 4


@pytest.mark.parametrize("suffix", [".safetensors", ""])
def test_ids_and_what_was_removed_outlive_saving(normal, tmp_path, suffix):
    model = tiny_spade().fit(normal)
    model.remove([5, 1])
    model.save(tmp_path / f"model{suffix}")
    again = Spade.load(tmp_path / f"model{suffix}", backbone=TinyNet(), device="cpu", progress=False)
    assert again.bank.ids == (0, 2, 3, 4) and again.add(normal[1]) == (6,)


def test_levels_of_chosen_images(normal):
    bank = tiny_spade().fit(normal).bank
    chosen = torch.tensor([4, 0, 4])
    assert all(torch.equal(part, whole[chosen]) for part, whole in zip(bank.levels(chosen), bank.pyramid, strict=True))
    assert bank.level_shapes == ((6, 16, 16), (8, 8, 8), (12, 4, 4)) and bank.dtype == torch.float32
    assert bank.pyramid is bank.snapshot.levels.whole  # not copied


def test_a_snapshot_stays_as_it_was(normal):
    bank = tiny_spade().fit(normal).bank
    before = bank.snapshot
    kept = [level.clone() for level in before.pyramid]
    bank.add(picture(9))
    bank.remove([0])
    assert len(before) == 6 and before.ids == tuple(range(6)) and len(bank) == 6 and bank.ids == (1, 2, 3, 4, 5, 6)
    assert all(torch.equal(a, b) for a, b in zip(before.pyramid, kept, strict=True))


def test_scores_in_other_threads_see_the_old_bank_or_the_new_one(normal):
    model = tiny_spade(k=1).fit(normal)
    allowed = {model.score(TEST[0]).image_scores[0]}
    copy = tiny_spade(k=1).fit([*normal, TEST[0]])
    allowed.add(copy.score(TEST[0]).image_scores[0])
    assert len(allowed) == 2
    seen, stop = [], threading.Event()

    def watch():
        last = False
        while not last:  # once more after the end, however late this thread begins
            last = stop.is_set()
            seen.append(model.score(TEST[0]).image_scores[0])

    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        model.remove(model.add(TEST[0]))
    stop.set()
    for thread in threads:
        thread.join()
    assert len(seen) >= 2 and set(seen) <= allowed


def test_threads_that_add_lose_nothing(normal):
    bank = tiny_spade().fit(normal[:1]).bank
    threads = [threading.Thread(target=bank.add, args=(picture(seed),)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bank) == 9 and sorted(bank.ids) == list(range(9)) and len(bank.pyramid[2]) == 9


def test_the_threshold_is_of_these_images_only(normal):
    model = tiny_spade().fit(normal)
    model.calibrate()
    assert model.score(TEST[0]).images[0].threshold is not None
    model.remove([0])
    model.add(picture(10))  # six images again, but others
    with pytest.warns(UserWarning, match="calibrate"):
        assert model.score(TEST[0]).images[0].threshold is None


@pytest.mark.filterwarnings("ignore:the threshold")
def test_skip_bad_and_failures_while_adding(folder, normal, tmp_path):
    model = tiny_spade().fit(normal[:2])
    (folder / "zz.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"zz\.png"):
        model.add(folder)
    assert len(model.bank) == 2
    assert len(model.add(folder, skip_bad=True)) == 6 and "zz.png" in model.skipped[0][0]


def test_float16_overflow_is_named(normal):
    net = TinyNet()
    with torch.no_grad():
        net.second[0].weight.mul_(1e6)
    options = dict(layers=LAYERS, device="cpu", resize=64, crop=64, progress=False, k=3)
    with pytest.raises(InputError, match="float16 holds values up to 65504, but level 1 of image_00000 has"):
        Spade(net, storage_dtype="float16", **options).fit(normal)
    Spade(net, storage_dtype="bfloat16", **options).fit(normal)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_storage_is_rounding_and_nothing_else(normal, dtype):
    wide, half = tiny_spade().fit(normal), tiny_spade(storage_dtype=dtype).fit(normal)
    assert half.bank.dtype == getattr(torch, dtype) and torch.equal(half.bank.embeddings, wide.bank.embeddings)
    for a, b in zip(half.bank.pyramid, wide.bank.pyramid, strict=True):
        assert torch.equal(a, b.to(a.dtype))
    a, b = half.score(TEST), wide.score(TEST)
    assert np.array_equal(a.image_scores, b.image_scores)
    assert np.allclose(a.anomaly_maps, b.anomaly_maps, rtol=0.05, atol=0.01 * b.anomaly_maps.max())
    assert half.calibrate().image == wide.calibrate().image


def test_mistakes_are_named(normal):
    model = tiny_spade().fit(normal)
    bank, plain = model.bank, Bank(torch.zeros(2, 4), [torch.zeros(2, 3, 4, 4)], ["a", "b"])
    for call, kind, says in (
        (lambda: bank.remove([9]), InputError, "no image 9"),
        (lambda: bank.remove([1, 1]), InputError, "twice"),
        (lambda: bank.remove(range(6)), InputError, "all images"),
        (lambda: plain.add(normal), InputError, "no backbone"),
        (lambda: bank.merge(plain), InputError, "same backbone"),
        (lambda: bank.merge("file"), InputError, "other must be a Bank"),
        (lambda: bank.merge(tiny_spade(local_average=True).fit(normal).bank), InputError, "local_average=True"),
        (lambda: bank.merge(tiny_spade(storage_dtype="float16").fit(normal).bank), InputError, "storage_dtype"),
        (
            lambda: bank.merge(
                Spade(TinyNet(1), preset="paper", layers=LAYERS, resize=64, crop=64, device="cpu").fit(normal).bank
            ),
            InputError,
            "fingerprint",
        ),
        (lambda: bank.add([]), InputError, "at least one"),
        (lambda: tiny_spade(storage_dtype="int8"), InputError, "storage_dtype must be one of"),
        (lambda: tiny_spade().add(normal), InputError, "call fit"),
        (lambda: Bank(torch.zeros(2, 4), [torch.zeros(2, 3, 4, 4)], ["a", "b"], ids=[1, 1]), InputError, "different"),
        (lambda: Bank(torch.zeros(2, 4), [torch.zeros(2, 3, 4, 4).int()], ["a", "b"]), DtypeError, r"pyramid\[0\]"),
    ):
        with pytest.raises(kind, match=says):
            call()
    assert len(bank) == 6
