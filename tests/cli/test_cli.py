"""The command line, run as users run it but in this process."""

from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import picture

from fastspade import Spade
from fastspade.cli import main
from fastspade.cli.score_files import unique_stems, write_scores
from fastspade.images.geometry import CropBox
from fastspade.maps.files import read_map
from fastspade.spade.result import ScoredImage


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model fitted by the command itself, on the offline backbone."""
    place = tmp_path_factory.mktemp("cli")
    (place / "good").mkdir()
    for seed in range(3):
        picture(seed, 80, 96).save(place / "good" / f"{seed}.png")
    path = place / "model.safetensors"
    command = ["fit", str(place / "good"), "-o", str(path), "--backbone", "efficientnet_lite0", "--k", "2"]
    assert main([*command, "--resize", "64", "--crop", "64", "--device", "cpu", "--quiet"]) == 0
    return path


def test_score_writes_a_table_and_two_pictures_an_image(model, tmp_path, capsys):
    for name, seed in (("a.png", 5), ("b.jpg", 6)):
        picture(seed, 80, 96).save(tmp_path / name)
    out = tmp_path / "out"
    assert main(["score", str(model), str(tmp_path / "a.png"), str(tmp_path / "b.jpg"), "-o", str(out), "--quiet"]) == 0
    with open(out / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [str(tmp_path / "a.png"), str(tmp_path / "b.jpg")]
    assert all(float(row["score"]) > 0 for row in rows)
    for row in rows:
        for kind in ("heatmap", "overlay"):
            assert Image.open(out / row[kind]).size == (96, 80)
    assert sorted(entry.name for entry in out.iterdir()) == ["colorbar.png", "heatmaps", "overlays", "scores.csv"]
    assert "2 heat maps" in capsys.readouterr().out


def test_a_bad_image_stops_before_anything_is_written(model, tmp_path, capsys):
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    out = tmp_path / "out"
    command = ["score", str(model), str(tmp_path / "a.png"), str(tmp_path / "bad.png"), "-o", str(out), "--quiet"]
    assert main(command) == 2
    assert "bad.png" in capsys.readouterr().err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.png", "bad.png"]
    assert main([*command, "--skip-bad"]) == 0
    assert "skipped" in capsys.readouterr().err
    assert len(list((out / "overlays").iterdir())) == 1


def test_images_of_one_name_do_not_overwrite_each_other(model, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        picture(1).save(tmp_path / folder / "same.png")
    out = tmp_path / "out"
    assert main(["score", str(model), str(tmp_path / "x"), str(tmp_path / "y"), "-o", str(out), "--quiet"]) == 0
    assert sorted(entry.name for entry in (out / "heatmaps").iterdir()) == ["same.png", "same_2.png"]


def test_decisions_masks_and_raw_maps(model, tmp_path, capsys):
    for name, seed in (("a.png", 1), ("b.png", 6)):
        picture(seed, 80, 96).save(tmp_path / name)
    found = {}
    for kind in ("tiff", "npy"):
        out = tmp_path / kind
        command = ["score", str(model), str(tmp_path / "*.png"), "-o", str(out), "--quiet", "--map-format", kind]
        assert main([*command, "--save", "maps,overlays,masks", "--threshold", "-1", "--colorbar"]) == 0
        with open(out / "scores.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["decision"] for row in rows] == ["defect", "defect"]
        found[kind] = np.stack([read_map(out / row["map"]) for row in rows])
        masks = np.stack([np.asarray(Image.open(out / row["mask"])) for row in rows])
        assert set(np.unique(masks)) <= {0, 255} and masks.shape == (2, 80, 96)
        assert all(Image.open(out / row["overlay"]).width > 96 for row in rows)  # the scale stands beside it
    threshold = Spade.load(model, device="cpu", progress=False).threshold.pixel
    assert np.array_equal(masks > 0, found["npy"] > threshold)
    step = (found["npy"].max() - found["npy"].min()) / 65535
    assert np.abs(found["tiff"] - found["npy"]).max() <= 0.51 * step  # one scale for all files
    assert Image.open(tmp_path / "tiff" / "maps" / "a.tiff").mode.startswith("I;16")


def scored(seed: int, height: float, threshold: float | None) -> ScoredImage:
    values = np.full((64, 64), height, np.float32)
    none = np.zeros(1, np.int64)
    return ScoredImage(
        f"{seed}.png", height, values, none, none, none, none, none, lambda: picture(seed, 64, 64), (64, 64), CropBox(0, 0, 64, 64),
        threshold, threshold,
    )  # fmt: skip


@pytest.mark.parametrize("threshold", [2.0, None])
def test_files_are_written_beside_the_scoring_wherever_the_colours_are_known(tmp_path, threshold):
    """With a threshold they are; then few images wait, and none of their maps lies on disk."""
    done = []

    def images():
        for i in range(12):
            done.append(len(list(tmp_path.glob("*maps/*.png"))))
            yield scored(i, float(i), threshold)

    assert write_scores(images(), tmp_path, ("heatmaps",), threads=1) == 12
    assert len(list((tmp_path / "heatmaps").iterdir())) == 12 and not (tmp_path / ".maps").exists()
    assert all(i - count <= 4 for i, count in enumerate(done)) if threshold else done == [0] * 12
    top = np.asarray(Image.open(tmp_path / "heatmaps" / "8.png"))[0, 0]
    same = np.asarray(Image.open(tmp_path / "heatmaps" / "11.png"))[0, 0]
    assert np.array_equal(top, same) == (threshold is not None)  # colours end at 4 thresholds, or at the highest value


def test_masks_need_a_threshold(tmp_path, capsys):
    picture(1, 64, 64).save(tmp_path / "a.png")
    path = tmp_path / "m.safetensors"
    fit = ["fit", str(tmp_path / "a.png"), "-o", str(path), "--backbone", "efficientnet_lite0", "--k", "1"]
    assert main([*fit, "--resize", "64", "--crop", "64", "--device", "cpu", "--quiet"]) == 0
    assert "no threshold" in capsys.readouterr().err
    command = ["score", str(path), str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet", "--save"]
    assert main([*command, "masks"]) == 2 and "--pixel-threshold" in capsys.readouterr().err
    assert main([*command, "pictures"]) == 2 and "save must list" in capsys.readouterr().err
    assert main([*command, "masks", "--pixel-threshold", "1e9"]) == 0
    assert not np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")).any()


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_a_model_grows_and_shrinks(tmp_path, capsys, suffix):
    for seed in range(4):
        picture(seed).save(tmp_path / f"{seed}.png")
    path = tmp_path / f"model{suffix}"
    running = ["--device", "cpu", "--quiet"]
    options = ["--backbone", "efficientnet_lite0", "--k", "1", "--resize", "64", "--crop", "64", "--storage-dtype", "float16"]
    assert main(["fit", str(tmp_path / "[01].png"), "-o", str(path), *options, *running]) == 0
    assert main(["add", str(path), str(tmp_path / "2.png"), str(tmp_path / "3.png"), *running]) == 0
    told = capsys.readouterr()
    assert "added 2 images, ids 2 to 3" in told.out and "4 normal images" in told.out and "--calibrate" in told.err
    assert main(["remove", str(path), str(tmp_path / "0.png"), "3", "--calibrate", *running]) == 0
    assert "2 normal images" in capsys.readouterr().out
    model = Spade.load(path, device="cpu", progress=False)
    assert model.bank.ids == (1, 2) and model.threshold.images == 2 and model.bank.dtype == torch.float16
    for wrong in ("0", str(tmp_path / "3.png"), "-1"):
        assert (
            main(["remove", str(path), *running, "--", wrong]) == 2 and "neither the id nor the name" in capsys.readouterr().err
        )
    score = ["score", str(path), str(tmp_path / "3.png"), "-o", str(tmp_path / "out"), *running, "--memory-limit"]
    assert main([*score, "10K"]) == (2 if not suffix else 0)
    if not suffix:
        assert "memory_limit must hold" in capsys.readouterr().err and main([*score, "0.1G"]) == 0
    with pytest.raises(SystemExit):
        main([*score, "much"])


def test_an_output_folder_with_files_is_left_alone(model, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    assert main(["score", str(model), str(tmp_path), "-o", str(out), "--quiet"]) == 2
    assert "output" in capsys.readouterr().err and (out / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["fit", "nowhere", "-o", "m.safetensors", "--backbone", "efficientnet_lite0"], "nowhere"),
        (["fit", ".", "-o", "no/such/m.safetensors"], "no/such"),
        (["score", "gone.safetensors", ".", "-o", "out"], "gone.safetensors"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(command, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("fastspade: error:") and says in lines[0]
    assert not list(tmp_path.iterdir())


def test_ctrl_c_exits_130_and_leaves_nothing(model, tmp_path, monkeypatch, capsys):
    picture(1).save(tmp_path / "a.png")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastspade.spade.device_bank.pyramid_knn", interrupted)
    assert main(["score", str(model), str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet"]) == 130
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert "interrupted" in capsys.readouterr().err


def test_the_module_runs_and_tells_its_build():
    ended = subprocess.run([sys.executable, "-m", "fastspade", "info"], capture_output=True, text=True, check=True)
    assert '"simd"' in ended.stdout and '"cuda_architectures"' in ended.stdout


def test_pictures_of_one_name_are_numbered():
    names = [f"part_{i}/image.png" for i in range(3000)] + ["image_2.png", "x/image_3001.png"]
    stems = unique_stems(names)
    assert stems[:3] == ["image", "image_2", "image_3"] and len(set(stems)) == len(names)
    assert stems[-2:] == ["image_2_2", "image_3001"]
