"""What do presets and options find, and what do they cost? Measured on any list of labelled datasets.

    python benchmarks/accuracy.py DATASET[:LAYOUT] ... [--rows ...] [--backbone efficientnet_lite0] [--out FILE]   (".[demo,eval]")

DATASET: a folder that `fastspade eval` reads; LAYOUT mvtec (the default), visa, btad or folder. `benchmarks/made_sets.py` writes
some. Every row is a preset with some options changed; every category counts alike in the means. Pixel metrics are those at
the images' own sizes. found: the share of the defects that decisions call so, at the default target of 1 % false alarms;
alarms: the share of good test images that they call defects. Rows that differ in the image score alone share one search;
seconds: of the processor, for fit, the normal images against each other, and score, over the number of all images. A run may be
split: rows that FILE has of the same categories are kept.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe

from fastspade import Spade
from fastspade.backbones import load_backbone
from fastspade.evaluate import roc_auc
from fastspade.evaluate.category import Category
from fastspade.evaluate.dataset import load_mask, read_dataset
from fastspade.evaluate.metrics import roc_auc_of
from fastspade.evaluate.pro import count_pixels, pro_of
from fastspade.evaluate.protocols import placed_map
from fastspade.spade.image_score import image_scores
from fastspade.spade.leave_one_out import judged, left_out_scores
from fastspade.spade.matching import Matches
from fastspade.spade.relative import by_cell, ceiling_of, left_out_relative_scores, relative_scores
from fastspade.spade.result import ScoredImage
from fastspade.spade.threshold import tail_quantile

PAPER = {"preset": "paper"}
ROWS: dict[str, dict[str, Any]] = {
    "the default": {},
    'image_score="knn"': {"image_score": "knn"},
    'image_score="knn", k_image=1': {"image_score": "knn", "k_image": 1},
    'image_score="max"': {"image_score": "max"},
    'image_score="top1%"': {"image_score": "top1%"},
    'preset="paper"': PAPER,
    "paper, k_image=3": PAPER | {"k_image": 3},
    'paper, image_score="relative"': PAPER | {"image_score": "relative"},
    "reflect_border=False": {"reflect_border": False},
    "k=10": {"k": 10},
    "paper, whole images, reflect_border": PAPER | {"resize": "whole", "crop": None, "reflect_border": True},
    "local_average=True": {"local_average": True},
    'preset="rad"': {"preset": "rad"},  # needs its own network's weights
}
OF_THE_SCORE = ("image_score", "k_image")


@dataclass(frozen=True)
class Matched:
    """One search of a category: maps and stage 1's distances of its normal images, each against all the others, and of its test
    images; the pixel metrics; seconds per image."""

    normal: list[Matches]
    test: list[ScoredImage]
    pixels: dict[str, float]
    seconds: float


def search(category: Category, backbone: Any, options: dict[str, Any]) -> Matched:
    start = time.process_time()
    model = Spade(backbone, device="cpu", progress=False, keep_crop=True, **options | {"image_score": "max"})
    bank = model.fit([str(path) for path in category.train]).fitted_bank().snapshot
    normal: list[Matches] = []
    left_out_scores(model, bank, judged(model, bank), normal.append)
    test = model.score([str(image.path) for image in category.test]).images
    seconds = time.process_time() - start
    masks = [
        load_mask(one.mask) if one.mask else np.zeros(scored.size, bool) for one, scored in zip(category.test, test, strict=True)
    ]
    counts = count_pixels(
        lambda i: placed_map(test[i].anomaly_map, test[i].crop, test[i].size), masks, None, np.dtype(np.float32)
    )
    pixels = {"pixel_roc_auc": float(roc_auc_of(counts)), "pro": float(pro_of(counts))}
    return Matched(normal, list(test), pixels, seconds / (len(category.train) + len(test)))


def scores(matched: Matched, kind: str, k_image: int) -> tuple[np.ndarray, np.ndarray]:
    """The image scores of the normal and of the test images."""
    maps = torch.stack([torch.from_numpy(one.anomaly_map) for one in matched.test])
    if kind == "relative":
        grid = matched.normal[0].nearest.shape[-2], matched.normal[0].nearest.shape[-1]
        cells = torch.cat([by_cell(one.smoothed, grid) for one in matched.normal])
        return left_out_relative_scores(cells).numpy(), relative_scores(by_cell(maps, grid), ceiling_of(cells)).numpy()
    distances = torch.stack([torch.from_numpy(one.neighbor_distances) for one in matched.test])
    normal = torch.cat([image_scores(kind, one.distances[:, :k_image], one.smoothed) for one in matched.normal])
    return normal.numpy(), image_scores(kind, distances[:, :k_image], maps).numpy()


def measure(matched: Matched, category: Category, row: dict[str, Any]) -> dict[str, float]:
    settings = Spade("efficientnet_lite0", device="cpu", **row).settings
    normal, test = scores(matched, settings.image_score, settings.k_image or settings.k)
    defect = np.array([image.defect for image in category.test])
    above = test > tail_quantile(normal, 0.01)
    image = {"image_roc_auc": float(roc_auc(defect, test)), **matched.pixels}
    return image | {
        "found": float(above[defect].mean()), "alarms": float(above[~defect].mean()), "seconds_per_image": matched.seconds
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET[:LAYOUT]")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), default=list(ROWS)[:-1], help="only these (default: all but rad)"
    )
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--layers", nargs="+", help="in place of the backbone's own")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # what the crop leaves out, how few normal images there are: it is what is measured
    categories = []
    for text in arguments.datasets:
        root, _, layout = text.partition(":")
        categories += read_dataset(root, layout or "mvtec")
    names = [category.name for category in categories]
    record: dict[str, Any] = {"categories": names, "backbone": arguments.backbone, "layers": arguments.layers, "rows": {}}
    if arguments.out and arguments.out.exists():
        before = json.loads(arguments.out.read_text())
        if all(before[key] == record[key] for key in ("categories", "backbone", "layers")):
            record["rows"] = before["rows"]
    record["machine"] = describe("scipy")
    backbone = load_backbone(arguments.backbone, layers=arguments.layers, device="cpu")
    waiting = [name for name in arguments.rows if name not in record["rows"]]
    while waiting:
        options = {key: value for key, value in ROWS[waiting[0]].items() if key not in OF_THE_SCORE}
        together = [
            name for name in waiting if options == {key: value for key, value in ROWS[name].items() if key not in OF_THE_SCORE}
        ]
        waiting = [name for name in waiting if name not in together]
        each: dict[str, dict[str, dict[str, float]]] = {name: {} for name in together}
        for category in categories:
            matched = search(category, None if options.get("preset") == "rad" else backbone, options)
            for name in together:
                each[name][category.name] = measure(matched, category, ROWS[name])
        for name, found in each.items():
            mean = {key: float(np.mean([one[key] for one in found.values()])) for key in next(iter(found.values()))}
            record["rows"][name] = {"options": ROWS[name], "mean": mean, "each": found}
            print(name, {key: round(value, 4) for key, value in mean.items()}, flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
