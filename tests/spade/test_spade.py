"""Spade against the paper's definitions written out plainly, and what users rely on around it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from tiny import LAYERS, TinyNet, picture, tiny_spade

import fastspade
from fastspade import Spade
from fastspade.search import reference


@pytest.mark.parametrize("kappa", [1, 4])
@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_scores_are_the_papers_definition(normal, kappa, upsample):
    model = tiny_spade(kappa=kappa, upsample=upsample, reflect_border=False).fit(normal)
    test = [picture(100), picture(101)]
    result = model.score(test)

    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in normal + test])
    embedding, pyramid = model.backbone(pixels)
    squared = (embedding[6:, None].double() - embedding[None, :6].double()).square().sum(-1)
    nearest = squared.sort(dim=1)
    assert np.allclose(result.image_scores, nearest.values[:, :3].mean(1), rtol=1e-5)
    assert np.array_equal(result.neighbors, nearest.indices[:, :3].numpy())
    distances, indices = reference.pyramid_knn(
        [level[6:] for level in pyramid],
        [level[:6] for level in pyramid],
        kappa,
        gallery_index=nearest.indices[:, :3],
        upsample=upsample,
    )
    raw = F.interpolate(distances.mean(-1)[:, None], size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
    wanted = np.stack([gaussian_filter(one, 1.0) for one in raw.numpy()])
    assert np.allclose(result.anomaly_maps, wanted, rtol=1e-3, atol=1e-4 * wanted.max())
    place = indices[..., 0].numpy()
    assert np.array_equal(result.matched_image, place // 256)
    assert np.array_equal(result.matched_y, place % 256 // 16) and np.array_equal(result.matched_x, place % 16)


def test_a_normal_image_scores_zero_and_is_matched_to_itself(normal):
    result = tiny_spade(k=6, k_image=1).fit(normal).score(normal[3])
    # The network itself may differ in the last bit between batch sizes.
    assert result.image_scores[0] < 1e-12 and (result.anomaly_maps < 1e-10).all()
    assert (result.matched_image == 3).all()
    assert np.array_equal(result.matched_y[0], np.arange(16)[:, None].repeat(16, 1))


def test_a_patch_never_seen_stands_out(normal):
    damaged = np.array(normal[0])
    damaged[20:36, 30:46] = [255, 0, 255]
    found = tiny_spade().fit(normal).score(damaged).anomaly_maps[0]
    y, x = np.unravel_index(found.argmax(), found.shape)
    assert 16 <= y < 40 and 26 <= x < 50


def test_score_in_one_call_equals_fit_then_score(normal):
    options = dict(layers=LAYERS, k=3, resize=64, crop=64, device="cpu", progress=False)
    at_once = fastspade.score([picture(9)], normal, backbone=TinyNet(), **options)
    in_steps = Spade(TinyNet(), **options).fit(normal).score([picture(9)])
    assert np.array_equal(at_once.anomaly_maps, in_steps.anomaly_maps)
    assert np.array_equal(at_once.image_scores, in_steps.image_scores)


def test_maps_come_back_at_each_images_own_size(normal):
    model = tiny_spade(resize=72, crop=64).fit(normal)
    wide, square = picture(1, 90, 130), picture(2, 50, 50)
    result = model.score([wide, square])
    assert [found.shape for found in result.anomaly_maps] == [(90, 130), (50, 50)]
    assert result.overlay(0).size == (130, 90) and result.overlay(1).size == (50, 50)
    kept = tiny_spade(resize=72, crop=64, keep_crop=True).fit(normal).score([wide, square])
    assert kept.anomaly_maps.shape == (2, 64, 64) and kept.overlay(0).size == (64, 64)


def test_batch_size_does_not_change_the_neighbours(normal):
    test = [picture(seed) for seed in range(50, 57)]
    one, many = (tiny_spade(batch_size=size).fit(normal).score(test) for size in (1, 7))
    assert np.array_equal(one.neighbors, many.neighbors)
    assert np.allclose(one.anomaly_maps, many.anomaly_maps, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "expected"), [("max", lambda m: m.max()), ("top1%", lambda m: np.sort(m.ravel())[-40:].mean())])
def test_image_score_can_come_from_the_map(normal, name, expected):
    result = tiny_spade(image_score=name).fit(normal).score(picture(77))
    assert result.image_scores[0] == pytest.approx(expected(result.anomaly_maps[0]), rel=1e-5)


def test_k_beyond_the_normal_images_uses_all_and_says_so_once(normal):
    model = tiny_spade(k=50).fit(normal)
    with pytest.warns(UserWarning, match="k=50 but there are 6 normal images") as caught:
        result = model.score([picture(1), picture(2)])
    assert len(caught) == 1 and result.neighbors.shape == (2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.score(picture(3))


def test_gallery_and_image_score_have_their_own_k(normal):
    both = tiny_spade(k=2, k_image=5).fit(normal).score(picture(5))
    five = tiny_spade(k=5).fit(normal).score(picture(5))
    two = tiny_spade(k=2).fit(normal).score(picture(5))
    assert both.image_scores[0] == five.image_scores[0]
    assert np.array_equal(both.anomaly_maps, two.anomaly_maps) and both.neighbors.shape == (1, 2)


def test_streaming_gives_the_same_as_score(normal):
    model = tiny_spade().fit(normal)
    test = [picture(seed) for seed in range(20, 25)]
    streamed = list(model.score_batches(test))
    whole = model.score(test)
    assert [image.name for image in streamed] == whole.names
    assert all(np.array_equal(a.anomaly_map, b) for a, b in zip(streamed, whole.anomaly_maps, strict=True))


def test_saved_model_scores_bit_identically(normal, tmp_path):
    model = tiny_spade(kappa=2, sigma=2.5, image_score="max").fit(normal)
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = Spade.load(path, backbone=TinyNet(), device="cpu", progress=False)
    test = [picture(seed) for seed in (7, 8)]
    a, b = model.score(test), again.score(test)
    assert np.array_equal(a.anomaly_maps, b.anomaly_maps) and np.array_equal(a.image_scores, b.image_scores)
    assert again.options() == model.options() and again.bank.names == model.bank.names
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_failed_save_leaves_the_old_model(normal, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    tiny_spade().fit(normal).save(path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError):
        tiny_spade().fit(normal[:2]).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_skip_bad_leaves_broken_images_out(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"not a picture")
    model = tiny_spade().fit(folder, skip_bad=True)
    assert len(model.bank) == 6 and "broken.png" in model.skipped[0][0]
    result = model.score([folder / "0.png", folder / "broken.png"], skip_bad=True)
    assert len(result) == 1 and "broken.png" in result.skipped[0][0]


def test_paths_arrays_tensors_and_loaders_score_alike(folder):
    model = tiny_spade().fit(folder)
    array = np.array(Image.open(folder / "2.png"))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    loader = torch.utils.data.DataLoader([(tensor / 255, 0)], batch_size=1)
    wanted = model.score(folder / "2.png").anomaly_maps
    for form in (str(folder / "2.*"), Image.fromarray(array), array, tensor, tensor[None] / 255, loader):
        assert np.allclose(model.score(form).anomaly_maps, wanted, atol=1e-5)


def test_few_normal_images_are_told_of_once_by_fit_and_all_scoring_after_it(normal, recwarn):
    model = tiny_spade(k=50, preset="default").fit(normal)
    model.score(normal[0])
    model.score(normal[1])
    assert [str(told.message) for told in recwarn if "using all of them" in str(told.message)] == [
        "k=50 but there are 6 normal images; using all of them"
    ]
