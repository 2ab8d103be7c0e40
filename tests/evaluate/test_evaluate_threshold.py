"""Thresholds from normal images alone: leave-one-out written out by refitting, stored, and turned into decisions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from dataset_trees import damaged
from scipy import stats
from tiny import TinyNet, tiny_spade

from fastspade import Spade
from fastspade.errors import InputError, ModelFileError
from fastspade.spade.threshold import LargestValues, Threshold, false_alarm_range, tail_quantile


def left_out_scores(normal, **options):
    """Every normal image scored by a model fitted on the others, from the pictures: the definition, the slow way."""
    found = []
    for i, image in enumerate(normal):
        model = tiny_spade(keep_crop=True, **options).fit(normal[:i] + normal[i + 1 :])
        found.append(model.score(image))
    return np.array([one.image_scores[0] for one in found]), np.stack([one.anomaly_maps[0] for one in found])


@pytest.mark.parametrize(
    "options", [{}, {"k": 2, "k_image": 4}, {"k": 50}, {"image_score": "max", "kappa": 2}, {"batch_size": 1}]
)
@pytest.mark.filterwarnings("ignore:k=50")
def test_leave_one_out_equals_refitting_without_each_image(normal, options):
    scores, maps = left_out_scores(normal, **options)
    model = tiny_spade(**options).fit(normal)
    assert np.allclose(model.normal_scores(), scores, rtol=1e-4)
    for target in (0.0, 0.34):
        found = model.calibrate(target, pixel_target_fpr=0.01)
        assert found.image == pytest.approx(tail_quantile(scores, target), rel=1e-3) and model.threshold == found
        assert found.pixel == pytest.approx(np.sort(maps.ravel())[-1 - int(0.01 * maps.size)], rel=1e-4)


def test_repeated_normal_images_do_not_vouch_for_the_wrong_one(normal):
    """With k + 1 copies of one picture the copies tie at distance 0, and the picture itself may not be among them."""
    model = tiny_spade(k=2).fit([normal[0]] * 5 + normal[1:])
    bank = model.bank.snapshot
    pyramid = [level[:5] for level in bank.pyramid]
    found = model.matcher(bank).match(bank.embeddings[:5], pyramid, model.device_bank(bank), (64, 64), left_out=torch.arange(5))
    assert found.neighbors.shape == (5, 2) and all(i not in row for i, row in enumerate(found.neighbors.tolist()))
    assert found.scores.tolist() == [0.0] * 5


def test_calibrating_extracts_no_features_again(normal, monkeypatch):
    model = tiny_spade().fit(normal)

    def never(*_):
        raise AssertionError("the backbone ran")

    monkeypatch.setattr(model, "features", never)
    assert model.calibrate().images == 6


def test_decisions_and_masks(normal):
    model = tiny_spade().fit(normal)
    bad, _ = damaged(0)
    result = model.score([normal[0], bad])
    with pytest.raises(InputError, match="calibrate"):
        _ = result.decisions
    with pytest.raises(InputError, match="pixel_threshold"):
        _ = result.masks
    known = model.calibrate(0.0, 0.0)
    result = model.score([normal[0], bad])
    assert result.decisions.tolist() == [bool(score > known.image) for score in result.image_scores]
    assert result.masks.dtype == bool and np.array_equal(result.masks, result.anomaly_maps > known.pixel)
    low, high = model.score([bad], threshold=-1), model.score([bad], threshold=1e9, pixel_threshold=1e9)
    assert low.decisions[0] and np.array_equal(low.masks[0], result.masks[1])
    assert not high.decisions[0] and not high.masks.any()
    assert next(iter(model.score_batches([bad], threshold=-1))).is_defect


def test_a_new_fit_forgets_and_a_grown_bank_is_told(normal):
    model = tiny_spade().fit(normal)
    model.calibrate()
    assert model.fit(normal[:4]).threshold is None
    model.threshold = Threshold(1.0, 1.0, 0.01, 0.001, images=9)
    with pytest.warns(UserWarning, match="calibrated on 9 normal images"):
        assert model.score(normal[0]).images[0].threshold is None


def test_the_threshold_is_saved_with_the_model(normal, tmp_path):
    model = tiny_spade().fit(normal)
    known = model.calibrate(0.2, 0.01)
    model.save(tmp_path / "m.safetensors")
    again = Spade.load(tmp_path / "m.safetensors", backbone=TinyNet(), device="cpu", progress=False)
    assert again.threshold == known
    assert np.array_equal(again.score(normal).decisions, model.score(normal).decisions)


@pytest.mark.parametrize(
    "values", [{}, {"image": "x"}, [], {"image": float("nan"), "pixel": 1, "target_fpr": 0, "pixel_target_fpr": 0, "images": 2}]
)
def test_a_damaged_threshold_is_refused(values):
    with pytest.raises(ModelFileError, match="threshold"):
        Threshold.from_dict(values)
    good = Threshold(1.0, 2.0, 0.01, 0.001, 5)
    assert Threshold.from_dict(json.loads(json.dumps(good.as_dict()))) == good


def test_mistakes_are_named(normal):
    with pytest.raises(InputError, match="fit"):
        tiny_spade().calibrate()
    with pytest.raises(InputError, match="at least 2"):
        tiny_spade().fit(normal[:1]).calibrate()
    model = tiny_spade().fit(normal)
    for call, says in (
        (lambda: model.calibrate(1.0), "target_fpr"),
        (lambda: model.calibrate(pixel_target_fpr=-0.1), "pixel_target_fpr"),
        (lambda: model.score(normal, threshold=float("nan")), "threshold"),
        (lambda: model.score(normal, pixel_threshold="high"), "pixel_threshold"),
    ):
        with pytest.raises(InputError, match=says):
            call()


@pytest.mark.parametrize("exceed", [0.0, 0.001, 0.1, 0.9])
def test_the_streamed_quantile_is_the_sorted_one(exceed):
    values = np.random.default_rng(0).integers(0, 500, 5000).astype(np.float32)
    stream = LargestValues(len(values), exceed)
    for part in np.array_split(values, 13):
        stream.add(part)
    assert stream.quantile() == np.sort(values)[-1 - int(exceed * len(values))]
    assert (values > stream.quantile()).mean() <= exceed


@pytest.mark.parametrize(("images", "target"), [(24, 0.01), (60, 0.02), (300, 0.05)])
def test_few_scores_give_about_the_share_wanted(images, target):
    """Where scores follow a Gumbel distribution: the share beyond the threshold, and its range in 9 of 10 cases."""
    random = np.random.default_rng(0)
    beyond = [stats.gumbel_r.sf(tail_quantile(random.gumbel(5, 2, images), target), 5, 2) for _ in range(200)]
    low, high = false_alarm_range(images, target)
    assert 0.6 * target < np.median(beyond) < 1.4 * target
    assert 0.8 < np.mean([low <= one <= high for one in beyond]) < 0.97


def test_scores_beyond_the_threshold_speak_for_themselves():
    scores = np.random.default_rng(0).permutation(1000).astype(float)
    assert tail_quantile(scores, 0.02) == 979 and tail_quantile(scores, 0.0) == 999
    assert tail_quantile(np.full(7, 3.0), 0.01) == 3.0


def test_overlays_outline_the_mask(normal):
    model = tiny_spade().fit(normal)
    bad, _ = damaged(0)
    plain = np.asarray(model.score([normal[0], bad]).overlay(1))
    middle = float(np.median(model.score([bad]).anomaly_maps))
    outlined = np.asarray(model.score([normal[0], bad], pixel_threshold=middle).overlay(1))
    green = (outlined == (0, 255, 0)).all(axis=2)
    mask = model.score([normal[0], bad], pixel_threshold=middle).masks[1]
    assert green.any() and not green[~mask].any() and np.array_equal(plain[~green], outlined[~green])
