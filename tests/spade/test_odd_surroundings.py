"""The program around a Spade changes its folder, its files, its module, its locale or Pillow's settings: no score does."""

from __future__ import annotations

import os
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import ImageFile
from tiny import LAYERS, TinyNet, picture, tiny_spade
from torch import nn

from fastspade import Spade
from fastspade.cli.score_files import write_scores
from fastspade.errors import InputError
from fastspade.maps.files import read_map, write_map


@pytest.fixture
def folder(tmp_path):
    """Six pictures, in "n"."""
    (tmp_path / "n").mkdir()
    for seed in range(6):
        picture(seed).save(tmp_path / "n" / f"{seed}.png")
    return tmp_path


def test_relative_paths_are_of_the_folder_they_were_given_in(folder, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(folder)
    model = tiny_spade().fit("n", path="model")
    result, images = model.score("n"), model.score_batches("n")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert result.overlay(0).size == (64, 64) and result.names[0] == "n/0.png"
    assert [np.float32(one.score) for one in images] == result.image_scores.tolist()
    model.add(picture(9))
    assert len(Spade.load(folder / "model", backbone=TinyNet(), device="cpu").bank) == 7 and os.listdir() == []


def test_a_file_written_since_it_was_scored_is_told_of_when_it_is_shown(folder):
    result = tiny_spade().fit(folder / "n").score(folder / "n" / "0.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result.overlay(0)
    picture(77, 80, 80).resize((64, 64)).save(folder / "n" / "0.png", compress_level=1)
    with pytest.warns(UserWarning, match=r"0\.png has been written since it was scored"):
        result.overlay(0)


class Trained(nn.Module):
    """Scores by it depend on its mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 7, 4, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
        self.second = nn.Conv2d(6, 8, 3, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(images))


def test_a_module_in_training_mode_is_evaluated_and_its_statistics_stay():
    network = Trained()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = Spade(network, layers=["first", "second"], k=2, resize=64, device="cpu", progress=False)
    scores = model.fit([picture(seed) for seed in range(4)]).score(picture(9)).image_scores
    network.train()
    assert np.array_equal(model.score(picture(9)).image_scores, scores)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_scripted_module_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that scripting is old
        scripted = torch.jit.script(TinyNet())
    with pytest.raises(InputError, match="got a ScriptModule; give the module it was made of"):
        Spade(scripted, layers=LAYERS, device="cpu")


def test_random_numbers_and_numpys_errors_are_the_callers(normal):
    model = tiny_spade()
    states = [torch.get_rng_state(), np.random.get_state()[1], random.getstate()]
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("ignore")
        model.fit(normal).calibrate(0.1)
        model.score(picture(9)).overlay(0)
    assert torch.equal(states[0], torch.get_rng_state()) and random.getstate() == states[2]
    assert np.array_equal(states[1], np.random.get_state()[1])


def test_pillow_reading_cut_files_is_told_of(folder, monkeypatch):
    model = tiny_spade().fit(folder / "n")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.warns(UserWarning, match="LOAD_TRUNCATED_IMAGES is set"):
        model.score(folder / "n" / "0.png")


def test_maps_of_names_that_are_not_utf8_are_written(tmp_path):
    place = tmp_path / os.fsdecode(b"\xff\xfe.tiff")
    try:
        place.write_bytes(b"")
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    write_map(place, np.eye(3), "tiff", (0.0, 1.0))
    assert np.array_equal(read_map(place), np.eye(3))
    picture(1).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    images = tiny_spade().fit([picture(seed) for seed in range(3)]).score(tmp_path / "*.png").images
    (tmp_path / "out").mkdir()
    assert write_scores(images, tmp_path / "out", ("maps", "overlays")) == 1
