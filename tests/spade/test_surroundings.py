"""What the caller has set, and what the system has not: scores are the same bits, and nothing is lost."""

from __future__ import annotations

import contextlib
import pickle
import sys

import numpy as np
import pytest
import torch
from tiny import picture, tiny_spade

from fastspade import SpadeModule
from fastspade.errors import DeviceError, InputError
from fastspade.evaluate import pro, roc_auc
from fastspade.torch_defaults import _SETTINGS, torch_defaults


@contextlib.contextmanager
def having(put, get, value):
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


CONTEXTS = {
    "bfloat16 autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float16 autocast": lambda: torch.autocast("cpu", dtype=torch.float16),
    "float64 by default": lambda: having(torch.set_default_dtype, torch.get_default_dtype, torch.float64),
    "float16 by default": lambda: having(torch.set_default_dtype, torch.get_default_dtype, torch.float16),
    "meta device": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "deterministic": lambda: having(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled, True),
    "medium products": lambda: having(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, "medium"),
    "no oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
    "denormals flushed": lambda: having(torch.set_flush_denormal, lambda: False, True),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_scores_are_the_same_bits_whatever_torch_is_told(name, normal, tmp_path):
    model = tiny_spade().fit(normal)
    want, threshold = model.score(picture(100)), model.calibrate()
    backbone = model.backbone.module
    with CONTEXTS[name]():
        found = [model.score(picture(100))]
        assert model.calibrate() == threshold
        model.save(tmp_path / "bank")
        loaded = type(model).load(tmp_path / "bank", backbone=backbone, progress=False)
        loaded.add(normal[:1])
        loaded.remove([len(normal)])
        anew = type(model)(model.backbone, **model.settings.as_dict() | {"layers": None}).fit(normal)
        found += [loaded.score(picture(100)), anew.score(picture(100))]
    for one in found:
        assert one.anomaly_maps.dtype == np.float32
        assert np.array_equal(one.anomaly_maps, want.anomaly_maps) and np.array_equal(one.image_scores, want.image_scores)


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_module_gives_the_same_bits_whatever_torch_is_told(name, normal):
    """With what is measured at fit too: the border's profile and the ceiling of relative scores."""
    options = dict(image_score="relative", reflect_border=True)
    model = tiny_spade(**options).fit(normal)
    images = torch.rand(2, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    module = SpadeModule(model)
    want = module(images)
    with CONTEXTS[name]():
        anew = type(model)(model.backbone, **model.settings.as_dict() | {"layers": None}).fit(normal)
        found = [module(images), SpadeModule(anew)(images)]
    for one in found:
        assert all(torch.equal(mine, wanted) for mine, wanted in zip(one, want, strict=True))


def test_settings_of_the_process_come_back(monkeypatch):
    assert all(one.get() == one.default for one in _SETTINGS)
    with having(torch.set_default_dtype, torch.get_default_dtype, torch.float64):
        with torch_defaults(), torch_defaults():
            assert torch.get_default_dtype() is torch.float32
        assert torch.get_default_dtype() is torch.float64


@pytest.mark.parametrize("stream", [None, object()])
def test_a_standard_error_that_is_none_or_plain_has_no_bar(stream, normal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    model = tiny_spade(progress=True).fit(normal)
    model.calibrate()
    assert len(model.score(normal[:1])) == 1


TENSOR = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("given", [picture(7), np.asarray(picture(7)), TENSOR], ids=["Pillow", "array", "tensor"])
def test_results_can_be_pickled(given, normal):
    result = tiny_spade().fit(normal).score(given)
    back = pickle.loads(pickle.dumps(result))
    assert np.array_equal(back.anomaly_maps, result.anomaly_maps)
    assert np.array_equal(np.asarray(back.overlay(0)), np.asarray(result.overlay(0)))


def test_metrics_of_bfloat16_are_those_of_its_values():
    maps = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    masks = torch.zeros(2, 8, 8)
    masks[:, 2:4, 2:4] = 1
    assert roc_auc(masks, maps) == roc_auc(masks, maps.float())
    assert pro(maps, masks.bfloat16()) == pro(maps.float(), masks)


@pytest.mark.parametrize("device", ["meta", "mps"])
def test_a_device_that_cannot_compute_is_refused(device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(DeviceError, match=f"device '{device}' cannot be used here"):
        tiny_spade(device=device)


def test_duplicates_count_once_in_the_threshold(normal):
    once, twice = tiny_spade().fit(normal), tiny_spade().fit([*normal, normal[2]])
    with pytest.warns(UserWarning, match="image_00006 is the same as image_00002"):
        found = twice.calibrate()
    want = once.calibrate()
    assert (found.image, found.pixel, found.images) == (want.image, want.pixel, 7)
    with pytest.raises(InputError, match="at least 2 different"), pytest.warns(UserWarning):
        tiny_spade(k=1).fit([normal[0]] * 2).calibrate()


def test_duplicates_are_told_of_by_the_normal_scores(normal):
    with pytest.warns(UserWarning, match="1 of the 7 .* image_00006 is the same as image_00002; they match each other") as told:
        scores = tiny_spade(k=1, image_score="max").fit([*normal, normal[2]]).normal_scores()
    assert scores[2] == scores[6] < scores[[0, 1, 3, 4, 5]].min() and told[0].filename == __file__


def test_a_refused_save_leaves_the_folder_as_it_was(normal, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="notes.txt"):
        tiny_spade().fit(normal).save(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]
