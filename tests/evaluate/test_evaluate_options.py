"""The options beyond the paper: each against its definition, each off by default."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import TinyNet, picture, tiny_spade

from fastspade import Spade
from fastspade.errors import InputError
from fastspade.search import reference


def test_all_are_off_by_default(normal):
    plain = tiny_spade()
    assert (plain.local_average, plain.window, plain.image_score) == (False, None, "knn")
    test = [picture(50)]
    wide = tiny_spade(window=64).fit(normal).score(test)
    assert np.allclose(plain.fit(normal).score(test).anomaly_maps, wide.anomaly_maps, rtol=1e-5)


def test_local_average_averages_what_is_inside_the_image(normal):
    model, plain = tiny_spade(local_average=True).fit(normal), tiny_spade().fit(normal)
    for averaged, level in zip(model.bank.pyramid, plain.bank.pyramid, strict=True):
        padded = F.pad(level, (1, 1, 1, 1))
        total = sum(padded[..., y : y + level.shape[2], x : x + level.shape[3]] for y in range(3) for x in range(3))
        count = F.conv2d(F.pad(torch.ones(1, 1, *level.shape[2:]), (1, 1, 1, 1)), torch.ones(1, 1, 3, 3))
        torch.testing.assert_close(averaged, total / count)
    assert torch.equal(model.bank.embeddings, plain.bank.embeddings)
    assert not np.allclose(model.score(picture(9)).anomaly_maps, plain.score(picture(9)).anomaly_maps)


def test_the_window_keeps_matches_near(normal):
    result = tiny_spade(window=9).fit(normal).score([picture(30), picture(31)])  # features are 16 x 16: 4 pixels per place
    y, x = np.mgrid[:16, :16]
    assert np.abs(result.matched_y - y).max() == 2 and np.abs(result.matched_x - x).max() == 2
    free = tiny_spade().fit(normal).score([picture(30), picture(31)])
    assert (result.anomaly_maps >= free.anomaly_maps - 1e-4).all()


def test_reweighting_is_patchcores_equation(normal):
    model = tiny_spade(image_score="reweighted", reflect_border=False).fit(normal)
    test = picture(44)
    result = model.score(test)
    pixels = torch.from_numpy(np.array(test)).permute(2, 0, 1)[None] / 255
    _, pyramid = model.backbone(pixels)
    chosen = torch.from_numpy(result.neighbors)
    mine = reference.descriptors(pyramid)[0]
    theirs = reference.descriptors([level[chosen[0]] for level in model.bank.pyramid]).flatten(0, 1)
    squared = torch.cdist(mine, theirs, compute_mode="donot_use_mm_for_euclid_dist")
    worst = squared.min(1).values.argmax()
    star, match = squared[worst].min(), squared[worst].argmin()
    nine = (theirs - theirs[match]).norm(dim=1).topk(9, largest=False).indices
    weight = 1 - torch.exp(star) / torch.exp(squared[worst, nine]).sum()
    assert result.image_scores[0] == pytest.approx(float(weight * star), rel=1e-4)
    assert model.calibrate().image > 0


def test_options_are_saved_with_the_model(normal, tmp_path):
    model = tiny_spade(local_average=True, window=12.5, image_score="reweighted").fit(normal)
    model.save(tmp_path / "m.safetensors")
    again = Spade.load(tmp_path / "m.safetensors", backbone=TinyNet(), device="cpu", progress=False)
    assert again.options() == model.options() and again.window == 12.5
    assert np.array_equal(again.score(picture(3)).image_scores, model.score(picture(3)).image_scores)


@pytest.mark.parametrize("window", [-1, float("nan"), "wide"])
def test_mistakes_are_named(window):
    with pytest.raises(InputError, match="window"):
        tiny_spade(window=window)
