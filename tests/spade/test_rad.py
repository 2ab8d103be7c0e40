"""Preset "rad" (RAD, arXiv 2601.22763): its maps beside anomalib's, levels matched one by one, and where it is named or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny import LAYERS, TEST, TinyNet, picture, tiny_spade

from fastspade import Spade
from fastspade.backbones import load_backbone
from fastspade.cli.main import main
from fastspade.errors import InputError
from fastspade.search import pyramid_knn
from fastspade.search.windowed import windowed_pyramid_knn
from fastspade.spade.options import PRESETS

BLOCKS = (0, 2, 3, 5)
NAMES = [f"blocks.{i}>norm" for i in BLOCKS]


def small_transformer(folder: Path) -> Path:
    """Random weights of timm's test_vit, as a file."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), folder / "vit.pth")
    return folder / "vit.pth"


def rad(weights: Path, **options) -> Spade:
    own = dict(layers=NAMES, embedding=NAMES[-1], k=4, resize=160, crop=None, device="cpu", progress=False) | options
    return Spade("timm:test_vit", preset="rad", weights=weights, **own)


def noise(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 160, 160, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of anomalib's imports
def test_maps_and_scores_are_those_of_anomalib(tmp_path):
    module = pytest.importorskip("anomalib.models.image.rad.torch_model")
    theirs = module.RadModel("test_vit", pre_trained=False, layers=list(BLOCKS), k_image=4)
    ours = rad(small_transformer(tmp_path)).fit(noise(7, 1))
    theirs.feature_extractor.feature_extractor.load_state_dict(torch.load(tmp_path / "vit.pth"))
    normal, test = ((images - ours.backbone.shift) / ours.backbone.scale for images in (noise(7, 1), noise(3, 2)))
    with torch.no_grad():
        theirs.train()(normal)
        theirs.build_memory_bank()
        expected = theirs.eval()(test)
    result = ours.score(noise(3, 2))
    assert result.anomaly_maps.max() > 0.5  # something to compare
    assert np.abs(result.anomaly_maps - expected.anomaly_map[:, 0].numpy()).max() < 1e-4
    assert np.abs(result.image_scores - expected.pred_score.numpy()).max() < 1e-4


def test_a_layer_is_taken_through_a_second_module(tmp_path):
    model = rad(small_transformer(tmp_path))
    images = noise(2, 3)
    embeddings, pyramid = model.backbone(images)
    network = model.backbone.module
    with torch.no_grad():
        tokens = network.forward_intermediates(
            (images - model.backbone.shift) / model.backbone.scale, indices=list(BLOCKS), return_prefix_tokens=True, norm=True,
            output_fmt="NLC", intermediates_only=True,
        )  # fmt: skip
    for level, (patches, _) in zip(pyramid, tokens, strict=True):
        unit = torch.nn.functional.normalize(patches, dim=2)
        assert torch.allclose(level.flatten(2).transpose(1, 2), unit, atol=1e-6)
    assert torch.allclose(embeddings, torch.nn.functional.normalize(tokens[-1][1][:, 0], dim=1), atol=1e-6)
    assert not pyramid[0].requires_grad
    with pytest.raises(InputError, match="layers must name modules of the backbone, got 'blocks.0>nrm'"):
        rad(tmp_path / "vit.pth", layers=["blocks.0>nrm"])


@pytest.mark.parametrize("kappa", [1, 3])
def test_levels_matched_by_themselves_are_averaged(kappa):
    random = torch.Generator().manual_seed(0)
    query, gallery = ([torch.randn(n, c, 5, 6, generator=random) for c in (3, 7)] for n in (2, 4))
    distances, indices = windowed_pyramid_knn(query, gallery, kappa, (5, 6), per_level=True)
    alone = [pyramid_knn([q], [g], kappa) for q, g in zip(query, gallery, strict=True)]
    assert torch.allclose(distances, (alone[0][0] + alone[1][0]) / 2) and torch.equal(indices, alone[1][1])
    near, _ = windowed_pyramid_knn(query, gallery, kappa, (1, 0), per_level=True)
    each = [windowed_pyramid_knn([q], [g], kappa, (1, 0))[0] for q, g in zip(query, gallery, strict=True)]
    assert torch.equal(near, (each[0] + each[1]) / 2)


def test_levels_of_several_sizes_are_refused(normal):
    with pytest.raises(InputError, match=r"per_level needs levels of one size, got \[\(16, 16\), \(8, 8\)"):
        tiny_spade(per_level=True).fit(normal).score(TEST)


def test_a_saved_model_is_the_same_read_whole_or_in_parts(tmp_path):
    model = rad(small_transformer(tmp_path)).fit(noise(5, 1))
    expected = model.score(noise(2, 2))
    model.save(tmp_path / "model")
    for options in ({}, {"memory_limit": 2 * sum(level[0].numel() for level in model.bank.pyramid) * 4 + 1}):
        again = Spade.load(tmp_path / "model", weights=tmp_path / "vit.pth", device="cpu", progress=False, **options)
        found = again.score(noise(2, 2))
        assert (again.preset, again.per_level, again.backbone.cosine, again.backbone.layers) == ("rad", True, True, NAMES)
        assert np.array_equal(found.anomaly_maps, expected.anomaly_maps)
        assert np.array_equal(found.matched_image, expected.matched_image)


def test_the_preset_brings_its_backbone_and_what_is_loaded_stays_as_it_is(monkeypatch):
    asked = []

    def load(backbone, **options):
        asked.append((backbone, options["layers"], options["embedding"], options["cosine"]))
        return load_backbone(TinyNet(), layers=LAYERS)

    monkeypatch.setattr("fastspade.spade.spade.load_backbone", load)
    Spade(preset="rad", device="cpu")
    Spade(device="cpu")
    loaded = load_backbone(TinyNet(), layers=LAYERS)
    Spade(loaded, preset="rad", device="cpu")
    preset = PRESETS["rad"]
    assert asked[0] == (preset["backbone"], preset["layers"], preset["embedding"], True)
    assert asked[1:] == [("wide_resnet50_2", None, None, False), (loaded, None, None, False)]


@pytest.mark.parametrize("options", [{"roi": "auto"}, {"image_score": "reweighted"}], ids=str)
def test_what_levels_by_themselves_do_not_go_with_is_named(options):
    with pytest.raises(InputError, match=f"per_level does not go with {next(iter(options))}="):
        tiny_spade(per_level=True, **options)


def test_the_command_line_takes_the_preset(tmp_path, capsys):
    weights = small_transformer(tmp_path)
    (tmp_path / "good").mkdir()
    for seed in range(3):
        picture(seed, 160, 160).save(tmp_path / "good" / f"{seed}.png")
    command = [
        "fit",
        str(tmp_path / "good"),
        "-o",
        str(tmp_path / "m.safetensors"),
        "--preset",
        "rad",
        "--backbone",
        "timm:test_vit",
    ]
    command += ["--weights", str(weights), "--layers", *NAMES, "--embedding", NAMES[-1], "--device", "cpu", "--quiet"]
    assert main([*command, "--resize", "160", "--crop", "none"]) == 0, capsys.readouterr().err
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["fastspade"])
    assert (header["options"]["preset"], header["options"]["window"], header["backbone"]["cosine"]) == ("rad", 16.0, True)
