"""What do the options of whole pictures bring? Measured on any datasets in MVTec's layout.

    python benchmarks/whole_options.py DATASET ... [--normal 60] [--every 2] [--rows ...] [--out FILE]        (".[demo,eval]")

Every row is the default with some options changed. ring: the mean of good test images' maps over their outer eighth, over that
of the inside. The row "padded to fit" keeps every picture's aspect ratio: it is continued by reflection to the normal images'
median aspect ratio, in place of being stretched to it. --normal: that many normal images, evenly spread; --every: of the test
images every so many-th. Metrics are those at the pictures' own sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from fastspade import Spade
from fastspade.backbones import Backbone, load_backbone
from fastspade.evaluate import pro, roc_auc
from fastspade.evaluate.category import Category
from fastspade.evaluate.dataset import load_mask, read_dataset
from fastspade.images import as_rgb

ROWS: dict[str, dict[str, Any]] = {
    "the default": {},
    "reflect_border=False": {"reflect_border": False},
    "resize=256, crop=224": {"resize": 256, "crop": 224},
    "padded to fit": {},
    "tile=96": {"tile": 96},
    "tile=128": {"tile": 128},
    'roi="auto"': {"roi": "auto"},
    'augment="flips"': {"augment": "flips"},
}


def padding(shape: tuple[int, ...], aspect: float) -> list[tuple[int, int]]:
    """Rows and columns before and after, so that width / height becomes `aspect`."""
    height, width = shape[:2]
    rows, columns = max(0, round(width / aspect) - height), max(0, round(height * aspect) - width)
    return [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)]


def ring(values: np.ndarray) -> float:
    height, width = values.shape
    inside = np.zeros(values.shape, dtype=bool)
    inside[height // 8 : height - height // 8, width // 8 : width - width // 8] = True
    return float(values[~inside].mean() / values[inside].mean())


def measure(name: str, backbone: Backbone, category: Category, k: int, normal: int, every: int) -> dict[str, Any]:
    chosen = np.linspace(0, len(category.train) - 1, min(normal, len(category.train))).round().astype(int)
    train = [np.asarray(as_rgb(category.train[i])) for i in chosen]
    tests = category.test[::every]
    pictures = [np.asarray(as_rgb(test.path)) for test in tests]
    aspect = math.exp(statistics.median(math.log(one.shape[1] / one.shape[0]) for one in train))
    pads = [padding(one.shape, aspect) if name == "padded to fit" else [(0, 0), (0, 0)] for one in pictures]
    if name == "padded to fit":
        train = [np.pad(one, [*padding(one.shape, aspect), (0, 0)], mode="reflect") for one in train]
    given = [np.pad(one, [*pad, (0, 0)], mode="reflect") for one, pad in zip(pictures, pads, strict=True)]
    model = Spade(backbone, device="cpu", progress=False, k=k, **ROWS[name])
    start = time.process_time()
    model.fit(train)
    fitted = time.process_time()
    found = model.score(given)
    done = time.process_time()
    maps = [
        one.anomaly_map[top : top + picture.shape[0], left : left + picture.shape[1]]
        for one, picture, ((top, _), (left, _)) in zip(found.images, pictures, pads, strict=True)
    ]
    labels = [test.defect for test in tests]
    masks = [load_mask(test.mask) if test.mask else np.zeros(one.shape, bool) for test, one in zip(tests, maps, strict=True)]
    assert model.bank is not None
    return {
        "image_roc_auc": float(roc_auc(labels, found.image_scores)),
        "pixel_roc_auc": float(roc_auc(np.concatenate([one.ravel() for one in masks]), np.concatenate([one.ravel() for one in maps]))),
        "pro": float(pro(maps, masks)),
        "ring": float(np.mean([ring(one) for one, defect in zip(maps, labels, strict=True) if not defect])),
        "entries": len(model.bank) / len(train),
        "fit_seconds": (fitted - start) / len(train),
        "score_seconds": (done - fitted) / len(tests),
        "images": [len(train), labels.count(False), labels.count(True)],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="only these (default: all)")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--normal", type=int, default=60)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # what a crop leaves out, how few normal images there are: it is what is measured
    categories = [category for root in arguments.datasets for category in read_dataset(root, "mvtec")]
    backbone = load_backbone(arguments.backbone, device="cpu")
    settings = {name: getattr(arguments, name) for name in ("backbone", "k", "normal", "every")}
    record: dict[str, Any] = {"machine": describe("scipy"), "settings": settings, "rows": {}}
    for name in arguments.rows:
        each = {one.name: measure(name, backbone, one, arguments.k, arguments.normal, arguments.every) for one in categories}
        record["rows"][name] = {"options": ROWS[name], "each": each}
        for category, values in each.items():
            print(name, category, {key: round(value, 3) for key, value in values.items() if isinstance(value, float)}, flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
