"""The relative image score against its definition written out, and what a fitted model keeps for it."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from tiny import TEST, TinyNet, picture, tiny_spade

from fastspade import Spade
from fastspade.errors import ModelFileError
from fastspade.spade import leave_one_out, relative
from fastspade.spade.relative import Ceiling


def written_out(cells: np.ndarray, normal: np.ndarray) -> list[float]:
    """Scores of maps by cell (B, h, w) under the ceiling of normal ones (N, h, w)."""
    ceiling = gaussian_filter(normal.mean(axis=0, dtype=float) + 3 * normal.std(axis=0, dtype=float), 0.5)
    risen = np.sort((cells / ((ceiling + ceiling.mean() / 2) / 1.5)).reshape(len(cells), -1), axis=1)
    highest, usual = risen[:, -max(1, round(0.01 * risen.shape[1])) :].mean(axis=1), risen[:, (risen.shape[1] - 1) // 2]
    return (highest / usual ** (1 / 3)).tolist()


@pytest.mark.parametrize("images", [2, 50, 51, 101])
def test_scores_and_left_out_scores_are_their_definition(images):
    cells = np.random.default_rng(images).random((images, 30, 22), dtype=np.float32)
    ceiling = relative.ceiling_of(torch.from_numpy(cells))
    assert np.allclose(relative.relative_scores(torch.from_numpy(cells), ceiling), written_out(cells, cells), rtol=1e-5)
    wanted = [written_out(cells[i : i + 1], np.delete(cells, i, axis=0))[0] for i in range(images)]
    assert np.allclose(relative.left_out_relative_scores(torch.from_numpy(cells)), wanted, rtol=1e-5)


def relative_spade(**options) -> Spade:
    return tiny_spade(image_score="relative", **options)


def test_the_score_is_of_the_map_and_the_normal_images_maps(normal):
    model = relative_spade(keep_crop=True).fit(normal)
    result = model.score(TEST)
    others = [relative_spade(keep_crop=True).fit([*normal[:i], *normal[i + 1 :]]).score(one).anomaly_maps[0]
              for i, one in enumerate(normal)]  # fmt: skip
    by_cell = [np.stack(maps).reshape(-1, 16, 4, 16, 4).mean(axis=(2, 4)) for maps in (result.anomaly_maps, others)]
    assert np.allclose(result.image_scores, written_out(*by_cell), rtol=1e-4)


def test_a_place_where_normal_images_differ_counts_less():
    normal = torch.rand(20, 8, 8, generator=torch.Generator().manual_seed(0))
    normal[:, :4] *= 20
    test = torch.zeros(2, 8, 8)
    test[0, 1, 1] = test[1, 6, 6] = 12
    restless, calm = relative.relative_scores(test, relative.ceiling_of(normal)).tolist()
    assert restless < 1 < calm


def test_cells_outside_a_region_of_interest_do_not_count_as_usual():
    cells, ceiling = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5, torch.ones(16, 16)
    outside = torch.zeros(1, 16, 16)
    outside[:, :8, :8] = cells
    assert torch.allclose(relative.relative_scores(outside, ceiling), relative.relative_scores(cells, ceiling[:8, :8]))
    assert relative.relative_scores(torch.zeros(1, 8, 8), ceiling[:8, :8]).tolist() == [0]


def test_an_image_unusual_all_over_scores_less_than_one_with_a_defect():
    normal = torch.rand(20, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    spot = normal[:1].clone()
    spot[0, 3, 3] *= 8
    everywhere, there = relative.relative_scores(torch.cat([2 * normal[:1], spot]), relative.ceiling_of(normal)).tolist()
    assert everywhere < there


def test_the_ceiling_is_saved_with_the_model_and_made_again_when_the_bank_changes(normal, tmp_path):
    model = relative_spade().fit(normal)
    for name in ("m.safetensors", "folder"):
        model.save(tmp_path / name)
        again = Spade.load(tmp_path / name, backbone=TinyNet(), device="cpu", progress=False)
        assert torch.equal(again.ceiling.values, model.ceiling.values)
        assert np.array_equal(again.score(TEST).image_scores, model.score(TEST).image_scores)
    model.add([picture(50), picture(51)])
    fresh = relative_spade().fit([*normal, picture(50), picture(51)])
    assert np.array_equal(model.score(TEST).image_scores, fresh.score(TEST).image_scores)


def test_an_option_that_changes_maps_makes_the_ceiling_again(normal):
    model, other = relative_spade().fit(normal), relative_spade(sigma=2.0).fit(normal)
    model.score(TEST)
    model.sigma = 2.0
    assert np.array_equal(model.score(TEST).image_scores, other.score(TEST).image_scores)


def test_one_normal_image_is_enough_to_score(normal):
    score = relative_spade(k=1).fit(normal[:1]).score(TEST).image_scores
    assert np.isfinite(score).all() and (score > 0).all()


def test_threads_make_one_ceiling(normal, monkeypatch):
    model, made = relative_spade().fit(normal), []
    monkeypatch.setattr(leave_one_out, "ceiling_of", lambda cells: made.append(1) or relative.ceiling_of(cells))
    threads = [threading.Thread(target=lambda: model.score(TEST)) for _ in range(4)]
    [one.start() for one in threads]
    [one.join() for one in threads]
    assert made == [1]


def test_more_normal_images_than_are_matched(normal, monkeypatch):
    monkeypatch.setattr(leave_one_out, "MATCHED", 4)
    model = relative_spade().fit(normal)
    assert model.calibrate(0.0).image == pytest.approx(model.normal_scores()[leave_one_out.evenly_spread(6)].max())
    assert np.isfinite(model.normal_scores()).all() and len(model.normal_scores()) == 6


@pytest.mark.parametrize(
    "change", [{"shape": [16, 15]}, {"float32": "no"}, {"images": "x"}, {"shape": [1 << 30, 1 << 30]}, {"next_id": None}]
)
def test_a_damaged_ceiling_is_refused(change):
    good = Ceiling(torch.rand(16, 16), 5, 7).as_dict()
    assert torch.equal(Ceiling.from_dict(json.loads(json.dumps(good))).values, Ceiling.from_dict(good).values)
    for values in (good | change, [], None):
        with pytest.raises(ModelFileError, match="ceiling"):
            Ceiling.from_dict(values)
    with pytest.raises(ModelFileError, match="finite"):
        Ceiling.from_dict(Ceiling(torch.full((2, 2), float("nan")), 5, 7).as_dict())
