"""What do presets and options find, and what do they cost? Measured on any list of labelled datasets.

    python benchmarks/accuracy.py DATASET[:LAYOUT] ... [--rows ...] [--backbone efficientnet_lite0] [--out FILE]   (".[demo,eval]")

DATASET: a folder that `fastspade eval` reads; LAYOUT mvtec (the default), visa, btad or folder. `benchmarks/made_sets.py` writes
some. Every row is a preset with some options changed; every category counts alike in the means. Pixel metrics are those at
the images' own sizes. found: the share of the defects that decisions call so, at the default target of 1 % false alarms;
alarms: the share of good test images that they call defects. seconds: of the processor, for fit, calibrate, score and metrics,
over the number of all images. A run may be split: rows that FILE has of the same categories are kept.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from fastspade import Spade
from fastspade.backbones import load_backbone
from fastspade.evaluate.dataset import read_dataset
from fastspade.evaluate.runner import evaluate_category

PAPER = {"preset": "paper"}
ROWS: dict[str, dict[str, Any]] = {
    'preset="paper"': PAPER,
    "paper, k_image=3": PAPER | {"k_image": 3},
    "paper, whole images, reflect_border": PAPER | {"resize": "whole", "crop": None, "reflect_border": True},
    'paper, image_score="relative"': PAPER | {"image_score": "relative"},
    "the default": {},
    'image_score="knn"': {"image_score": "knn"},
    'image_score="max"': {"image_score": "max"},
    'image_score="top1%"': {"image_score": "top1%"},
    "reflect_border=False": {"reflect_border": False},
    "local_average=True": {"local_average": True},
    "k=10": {"k": 10},
    'preset="rad"': {"preset": "rad"},  # needs its own network's weights
}


def measure(row: dict[str, Any], backbone: Any, category: Any) -> dict[str, float | None]:
    model = Spade(None if row.get("preset") == "rad" else backbone, device="cpu", progress=False, keep_crop=True, **row)
    start = time.process_time()
    result, _ = evaluate_category(category, model, protocols=["official"])
    seconds = time.process_time() - start
    found = {"image_roc_auc": result.image_metrics["image_roc_auc"]} | result.pixel_metrics["official"]
    found |= {"found": result.true_positive_rate, "alarms": result.false_positive_rate}
    numbers = {name: float(value) if value == value else None for name, value in found.items()}
    return numbers | {"seconds_per_image": seconds / (result.train + result.good + result.defects)}


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
    for name in [name for name in arguments.rows if name not in record["rows"]]:
        each = {category.name: measure(ROWS[name], backbone, category) for category in categories}
        keys = next(iter(each.values()))
        mean = {key: float(np.mean([one[key] for one in each.values() if one[key] is not None])) for key in keys}
        record["rows"][name] = {"options": ROWS[name], "mean": mean, "each": each}
        print(name, {key: round(value, 4) for key, value in mean.items()}, flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
