"""The runner and `fastspade eval`: metrics of known maps, both protocols, undefined metrics, files and mistakes."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import dataset_trees as trees
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from tiny import tiny_spade

from fastspade import maps
from fastspade.cli import main
from fastspade.errors import ImageReadError, InputError
from fastspade.evaluate import pro
from fastspade.evaluate.arrays import MetricValue
from fastspade.evaluate.dataset import load_mask, read_dataset
from fastspade.evaluate.protocols import crop_mask
from fastspade.evaluate.runner import _mask, compared_mask, evaluate_category, mean_of
from fastspade.images.geometry import centre_crop
from fastspade.maps.files import read_map

SMALL = ["--backbone", "efficientnet_lite0", "--k", "2", "--resize", "72", "--crop", "64", "--device", "cpu", "--quiet"]


def test_metrics_are_those_of_the_maps_that_score_gives(tmp_path):
    (category,) = read_dataset(trees.mvtec(tmp_path), "mvtec", ["bolt"])
    options = dict(resize=72, crop=64, k=2, k_image=1)
    result, tests = evaluate_category(category, tiny_spade(**options, keep_crop=True))
    plain = tiny_spade(**options).fit([str(path) for path in category.train])
    found = plain.score([str(image.path) for image in category.test])
    masks = [load_mask(image.mask) if image.mask else np.zeros((64, 64), bool) for image in category.test]
    labels = [image.defect for image in category.test]
    assert result.image_metrics["image_roc_auc"] == pytest.approx(roc_auc_score(labels, found.image_scores))
    official = result.pixel_metrics["official"]
    flat = np.stack(masks).ravel(), found.anomaly_maps.ravel()
    assert official["pixel_roc_auc"] == pytest.approx(roc_auc_score(*flat), abs=1e-6)
    assert official["pixel_average_precision"] == pytest.approx(average_precision_score(*flat), abs=1e-6)
    assert official["pro"] == pytest.approx(pro(list(found.anomaly_maps), masks), abs=1e-6)
    cropped = [np.asarray(Image.fromarray(mask).resize((72, 72), Image.Resampling.NEAREST))[4:68, 4:68] for mask in masks]
    kept = tiny_spade(**options, keep_crop=True).fit([str(path) for path in category.train])
    crops = kept.score([str(image.path) for image in category.test]).anomaly_maps
    assert result.pixel_metrics["paper"]["pro"] == pytest.approx(pro(list(crops), cropped), abs=1e-6)
    assert (result.train, result.good, result.defects) == (6, 3, 4)
    assert result.threshold == kept.calibrate()
    assert result.true_positive_rate == (found.image_scores[3:] > result.threshold.image).mean()
    assert all(np.array_equal(compared_mask(one, "official"), mask) for one, mask in zip(tests, masks, strict=True))


@pytest.mark.parametrize(("height", "width", "resize", "crop"), [(90, 130, 64, 56), (64, 64, 64, 64), (37, 20, 100, 90)])
def test_a_cropped_mask_is_the_nearest_pixel(height, width, resize, crop):
    mask = np.random.default_rng(0).random((height, width)) < 0.3
    box, side = centre_crop(height, width, resize, crop)
    found = crop_mask(mask, box, side)
    image = Image.fromarray(mask).transform(
        side[::-1],
        Image.Transform.EXTENT,
        (box.left, box.top, box.left + box.width, box.top + box.height),
        Image.Resampling.NEAREST,
    )
    assert (found == np.asarray(image)).mean() > 0.999  # a centre on an edge may round either way


def test_without_masks_pixel_metrics_are_undefined_with_a_reason(tmp_path):
    (category,) = read_dataset(trees.folder(tmp_path, masks=False), "folder")
    result, _ = evaluate_category(category, tiny_spade(keep_crop=True), protocols=["official"])
    assert 0 <= result.image_metrics["image_roc_auc"] <= 1
    value = result.pixel_metrics["official"]["pro"]
    assert math.isnan(value) and "no ground-truth masks" in value.reason


def test_means_leave_undefined_categories_out_and_say_so():
    values = [MetricValue(0.5), MetricValue.undefined("no defect image"), MetricValue(1.0)]
    assert mean_of(values) == 0.75 and mean_of(values).reason == "mean of 2 of 3 categories"
    assert mean_of(values[:1]).reason == ""
    assert math.isnan(mean_of(values[1:2])) and mean_of(values[1:2]).reason == "no defect image"


def test_mistakes_are_named(tmp_path):
    (category,) = read_dataset(trees.folder(tmp_path), "folder")
    for options, says in (
        (dict(protocols=["mine"]), "protocols"),
        (dict(fpr_limit=0), "fpr_limit"),
        (dict(target_fpr=2), "target_fpr"),
    ):
        with pytest.raises(InputError, match=says):
            evaluate_category(category, tiny_spade(keep_crop=True), **options)
    with pytest.raises(InputError, match="keep_crop"):
        evaluate_category(category, tiny_spade())


@pytest.mark.parametrize("layout", ["mvtec", "visa", "btad", "folder"])
def test_eval_writes_json_csv_and_a_plain_table(layout, tmp_path, capsys):
    root, out = getattr(trees, layout)(tmp_path / "set"), tmp_path / "out"
    assert main(["eval", str(root), "--layout", layout, "-o", str(out), "--no-report", *SMALL]) == 0
    table = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert set(results["protocols"]) == {"paper", "official"} and "64 x 64" in results["protocols"]["paper"]
    assert all(results["protocols"][name] in table for name in results["protocols"])
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [category["name"] for category in results["categories"]]
    assert [(row["category"], row["protocol"]) for row in rows] == [
        (name, protocol) for protocol in ("paper", "official") for name in [*names, "mean"]
    ]
    for category in results["categories"]:
        assert len(category["scores"]) == category["images"]["good"] + category["images"]["defect"]
        assert all(record["decision"] in ("good", "defect") for record in category["scores"])
        assert category["image"]["image_roc_auc"] == float(
            next(row for row in rows if row["category"] == category["name"])["image_roc_auc"]
        )
    mean = np.mean([category["pixel"]["official"]["pro"] for category in results["categories"]])
    assert results["mean"]["official"]["pro"] == pytest.approx(mean)
    assert f"{100 * mean:.2f}" in table and "PRO" in table


def test_options_reach_the_model_and_maps_are_saved(tmp_path, capsys):
    root, out = trees.mvtec(tmp_path / "set"), tmp_path / "out"
    command = ["eval", str(root), "--layout", "mvtec", "-o", str(out), "--no-report", *SMALL, "--category", "cap"]
    command += ["--protocol", "official", "--save-maps", "tiff", "--local-average", "--image-score", "max", "--window", "20"]
    assert main(command) == 0
    results = json.loads((out / "results.json").read_text())
    assert [category["name"] for category in results["categories"]] == ["cap"] and list(results["protocols"]) == ["official"]
    assert (
        results["options"]["local_average"] and results["options"]["window"] == 20 and results["options"]["image_score"] == "max"
    )
    files = sorted(path.relative_to(out / "anomaly_maps").as_posix() for path in (out / "anomaly_maps").rglob("*.tiff"))
    assert len(files) == 7 and files[0] == "cap/test/cut/000.tiff"
    values = [read_map(out / "anomaly_maps" / name) for name in files]
    masks = [
        load_mask(root / name.replace("test", "ground_truth").replace(".tiff", "_mask.png"))
        if "good" not in name
        else np.zeros((64, 64), bool)
        for name in files
    ]
    assert pro(values, masks) == pytest.approx(results["mean"]["official"]["pro"], abs=1e-3)


def test_undefined_metrics_are_null_with_a_reason(tmp_path, capsys):
    root, out = trees.folder(tmp_path / "set", masks=False), tmp_path / "out"
    assert main(["eval", str(root), "--layout", "folder", "-o", str(out), "--no-report", *SMALL]) == 0
    (category,) = json.loads((out / "results.json").read_text())["categories"]
    assert category["pixel"]["paper"]["pro"] is None and "masks" in category["reasons"]["paper.pro"]
    assert "n/a  set: pro: the dataset has no ground-truth masks" in capsys.readouterr().out


def without_mask(root):
    (root / "cap" / "ground_truth" / "cut" / "000_mask.png").unlink()


def with_broken_mask(root):
    (root / "cap" / "ground_truth" / "cut" / "000_mask.png").write_bytes(b"nonsense")


def with_broken_image(root):
    (root / "cap" / "test" / "good" / "000.png").write_bytes(b"nonsense")


def with_equal_stems(root):
    Image.open(root / "cap" / "test" / "good" / "000.png").save(root / "cap" / "test" / "good" / "000.bmp")


def with_large_mask(root):
    Image.new("L", (80, 80)).save(root / "cap" / "ground_truth" / "cut" / "000_mask.png")


@pytest.mark.parametrize(
    ("spoil", "options", "says"),
    [
        (without_mask, [], "cut/000.png has no mask"),
        (with_broken_mask, [], "cut/000_mask.png"),
        (with_broken_image, [], "good/000.png"),
        (with_equal_stems, ["--save-maps", "tiff"], "have one stem"),
        (
            with_large_mask,
            ["--max-pixels", "4096"],
            "cut/000_mask.png: its header says 80 x 80 = 6400 pixels, more than max_pixels",
        ),
        (lambda root: None, ["--max-pixels", "4095"], "64 x 64 = 4096 pixels, more than max_pixels"),
    ],
)
def test_a_broken_dataset_stops_before_any_work(tmp_path, capsys, monkeypatch, spoil, options, says):
    root = trees.mvtec(tmp_path / "set")
    spoil(root)
    monkeypatch.setattr("fastspade.cli.evaluate.Spade", None)
    assert main(["eval", str(root), "--layout", "mvtec", "-o", str(tmp_path / "out"), "--no-report", *SMALL, *options]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("spoil", [with_broken_mask, with_broken_image])
def test_unreadable_files_are_left_out_on_request(tmp_path, capsys, spoil):
    root, out = trees.mvtec(tmp_path / "set"), tmp_path / "out"
    spoil(root)
    command = ["eval", str(root), "--layout", "mvtec", "--category", "cap", "-o", str(out), "--no-report", *SMALL]
    assert main([*command, "--skip-bad"]) == 0 and "skipped" in capsys.readouterr().err
    (category,) = json.loads((out / "results.json").read_text())["categories"]
    assert category["images"]["good"] + category["images"]["defect"] == 6


def test_masks_are_read_with_the_models_max_pixels(tmp_path):
    """A limit above the usual one holds for the masks that metrics are made with, too."""
    (category,) = read_dataset(trees.mvtec(tmp_path), "mvtec", ["bolt"])
    with pytest.raises(ImageReadError, match="max_pixels"):
        _mask(category.test[-1], SimpleNamespace(size=(64, 64)), True, 4095)
    assert _mask(category.test[-1], SimpleNamespace(size=(64, 64)), True, 4096).any()


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch, capsys):
    root = trees.mvtec(tmp_path / "set")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastspade.cli.evaluate.evaluate_category", interrupted)
    assert main(["eval", str(root), "--layout", "mvtec", "-o", str(tmp_path / "out"), "--no-report", *SMALL]) == 130
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


@pytest.mark.slow
def test_a_terminal_gets_a_rich_table(tmp_path):
    """Run under a pseudo-terminal, as users run it."""
    pytest.importorskip("rich")
    pty = pytest.importorskip("pty")
    import os

    root = trees.btad(tmp_path / "set")
    leader, follower = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "fastspade",
        "eval",
        str(root),
        "--layout",
        "btad",
        "-o",
        str(tmp_path / "out"),
        "--no-report",
    ]
    process = subprocess.Popen([*command, *SMALL], stdout=follower, stderr=subprocess.PIPE, env=os.environ | {"COLUMNS": "160"})
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 4096):
            shown += chunk
    except OSError:  # the other end has closed
        pass
    os.close(leader)
    assert process.wait() == 0, process.stderr.read()
    assert "━" in shown.decode() and "protocol official" in shown.decode()


def test_colorbar_shows_the_scale():
    bar = maps.colorbar(0.5, 2.5, height=100)
    pixels = np.asarray(bar)
    assert tuple(pixels[0, 8]) == tuple(maps.color_table()[-1]) and tuple(pixels[-1, 8]) == tuple(maps.color_table()[0])
