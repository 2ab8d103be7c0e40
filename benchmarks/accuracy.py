"""What do presets and options find, and what do they cost? Measured on any list of labelled datasets.

    python benchmarks/accuracy.py DATASET[:LAYOUT] ... [--rows ...] [--normal 60] [--test 60] [--out FILE]          (".[demo,eval]")

DATASET: a folder that `fastspade eval` reads; LAYOUT mvtec (the default), visa, btad or folder. `benchmarks/made_sets.py` writes
some. --normal, --test: of a category with more images so many, evenly spread over its folders. Every row is a preset with some
options changed; every category counts alike in the means. Pixel metrics are those at the images' own sizes. found: the share of
the defects that decisions call so, at the default target of 1 % false alarms; alarms: the share of good test images that they
call defects. ring: the mean of good test images' maps over the outer eighth of what the network saw, over that of the inside.
entries: of the bank, for each normal image. Rows that differ in the image score alone share one search; seconds: of the
processor, for fit, the normal images against each other, and score, over the number of all images. A run may be split or cut off:
what FILE has of the same images is kept, also of other datasets.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from fastspade.images import as_rgb
from fastspade.spade.border import profile_of
from fastspade.spade.image_score import image_scores
from fastspade.spade.leave_one_out import judged, left_out_scores, picture_scores
from fastspade.spade.matching import Matches
from fastspade.spade.relative import by_cell
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
    "paper, whole images, reflect_border": PAPER | {"resize": "whole", "crop": None, "reflect_border": True},
    "k=10": {"k": 10},
    "local_average=True": {"local_average": True},
    "activations inside the blocks": {"layers": ["_blocks.3._swish", "_blocks.5._swish", "_blocks.11._swish"]},
    "reflect_border=False": {"reflect_border": False},
    "padded to fit": {"padded": True},
    "tile=80": {"tile": 80},
    'roi="auto"': {"roi": "auto"},
    'augment="flips"': {"augment": "flips"},
    # Not measured unless asked for:
    "reflection alone": {"profile": "none"},
    "profile of the normal images": {"profile": "normal images"},
    'preset="rad"': {"preset": "rad"},  # needs its own network's weights
}
USUAL = list(ROWS)[:-3]
OF_THE_SCORE = ("image_score", "k_image")
# No options of Spade. layers: of the backbone. padded: every picture is continued by reflection to the normal images' median aspect
# ratio, in place of being stretched to it. profile: what maps are divided by along the border: nothing, or the profile of the
# normal images' own maps, each against all the others.
OUR_OWN = ("layers", "padded", "profile")


def spread(category: Category, normal: int | None, test: int | None) -> Category:
    """So many of a category's images, evenly spread."""

    def some(images: Sequence[Any], most: int | None) -> tuple[Any, ...]:
        count = min(len(images), most or len(images))
        return tuple(images[i] for i in np.linspace(0, len(images) - 1, count).round().astype(int))

    return replace(category, train=some(category.train, normal), test=some(category.test, test))


class Pictures:
    """What a model is given of a category: train, test. Padded: how many rows and columns stand before and after each."""

    def __init__(self, category: Category, padded: bool) -> None:
        self.train: list[Any] = [str(path) for path in category.train]
        self.test: list[Any] = [str(image.path) for image in category.test]
        self._pads = [[(0, 0), (0, 0)] for _ in self.test]
        if padded:
            train, test = ([np.asarray(as_rgb(path)) for path in paths] for paths in (self.train, self.test))
            aspect = math.exp(statistics.median(math.log(one.shape[1] / one.shape[0]) for one in train))
            self._pads = [_padding(one.shape, aspect) for one in test]
            self.train = [np.pad(one, [*_padding(one.shape, aspect), (0, 0)], mode="reflect") for one in train]
            self.test = [np.pad(one, [*pad, (0, 0)], mode="reflect") for one, pad in zip(test, self._pads, strict=True)]

    def part(self, i: int, whole: np.ndarray) -> np.ndarray:
        """What a test picture's own map is, of the padded one's."""
        (top, bottom), (left, right) = self._pads[i]
        return whole[top : whole.shape[0] - bottom, left : whole.shape[1] - right]


def _padding(shape: tuple[int, ...], aspect: float) -> list[tuple[int, int]]:
    """So that width / height becomes `aspect`."""
    height, width = shape[:2]
    rows, columns = max(0, round(width / aspect) - height), max(0, round(height * aspect) - width)
    return [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)]


def ring(values: np.ndarray) -> float:
    """The mean of a map's outer eighth over that of the inside."""
    height, width = values.shape
    inside = np.zeros(values.shape, dtype=bool)
    inside[height // 8 : height - height // 8, width // 8 : width - width // 8] = True
    return float(values[~inside].mean() / values[inside].mean())


@dataclass(frozen=True)
class Matched:
    """One search of a category: maps and stage 1's distances of its normal images, each against all the others, and of its test
    images; the relative score of both; what does not depend on the image score."""

    normal: list[Matches]
    test: list[ScoredImage]
    relative: tuple[np.ndarray, np.ndarray]
    same: dict[str, float]


def search(category: Category, pictures: Pictures, backbone: Any, options: dict[str, Any], profile: str | None) -> Matched:
    start = time.process_time()
    model = Spade(backbone, device="cpu", progress=False, keep_crop=True, **options | {"image_score": "relative"})
    bank = model.fit(pictures.train).fitted_bank().snapshot
    chosen, normal = judged(model, bank), list[Matches]()
    if profile:
        model.border = None
    if profile == "normal images":
        left_out_scores(model, bank, chosen, normal.append)
        model.border = profile_of(torch.cat([by_cell(one.smoothed, tuple(one.nearest.shape[-2:])) for one in normal]))
        normal.clear()
    own = picture_scores(model, bank, chosen, left_out_scores(model, bank, chosen, normal.append))
    result = model.score(pictures.test)
    seconds = time.process_time() - start
    test = list(result.images)
    masks = [
        load_mask(one.mask) if one.mask else np.zeros(pictures.part(i, np.empty(test[i].size)).shape, bool)
        for i, one in enumerate(category.test)
    ]
    counts = count_pixels(
        lambda i: pictures.part(i, placed_map(test[i].anomaly_map, test[i].crop, test[i].size)), masks, None, np.dtype(np.float32)
    )
    same = {
        "pixel_roc_auc": float(roc_auc_of(counts)),
        "pro": float(pro_of(counts)),
        "ring": float(np.mean([ring(test[i].anomaly_map) for i, one in enumerate(category.test) if not one.defect])),
        "entries": len(bank) / len(category.train),
        "seconds_per_image": seconds / (len(category.train) + len(test)),
    }
    return Matched(normal, test, (own, np.asarray(result.image_scores)), same)


def scores(matched: Matched, kind: str, k_image: int) -> tuple[np.ndarray, np.ndarray]:
    """The image scores of the normal and of the test images."""
    if kind == "relative":
        return matched.relative
    maps = torch.stack([torch.from_numpy(one.anomaly_map) for one in matched.test])
    distances = torch.stack([torch.from_numpy(one.neighbor_distances) for one in matched.test])
    normal = torch.cat([image_scores(kind, one.distances[:, :k_image], one.smoothed) for one in matched.normal])
    return normal.numpy(), image_scores(kind, distances[:, :k_image], maps).numpy()


def measure(matched: Matched, category: Category, row: dict[str, Any]) -> dict[str, float]:
    options = {key: value for key, value in row.items() if key not in OUR_OWN}
    settings = Spade("efficientnet_lite0", device="cpu", **options).settings
    normal, test = scores(matched, settings.image_score, settings.k_image or settings.k)
    defect = np.array([image.defect for image in category.test])
    above = test > tail_quantile(normal, 0.01)
    found = {"found": float(above[defect].mean()), "alarms": float(above[~defect].mean())}
    return {"image_roc_auc": float(roc_auc(defect, test))} | found | matched.same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET[:LAYOUT]")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=USUAL, help="only these")
    parser.add_argument("--normal", type=int, help="normal images of a category at most")
    parser.add_argument("--test", type=int, help="test images of a category at most")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # what the crop leaves out, how few normal images there are: it is what is measured
    categories = []
    for text in arguments.datasets:
        root, _, layout = text.partition(":")
        categories += [spread(category, arguments.normal, arguments.test) for category in read_dataset(root, layout or "mvtec")]
    images = {
        one.name: [len(one.train), *(sum(image.defect == defect for image in one.test) for defect in (False, True))]
        for one in categories
    }
    record: dict[str, Any] = {"images": images, "backbone": arguments.backbone, "rows": {}}
    if arguments.out and arguments.out.exists():
        before = json.loads(arguments.out.read_text())
        known = before["images"]
        if before["backbone"] == arguments.backbone and all(known.get(name, count) == count for name, count in images.items()):
            record |= {"rows": before["rows"], "images": known | images}
    record["machine"] = describe("scipy")

    def keep() -> None:
        record["rows"] = {name: record["rows"][name] for name in ROWS if name in record["rows"]}
        if arguments.out:
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")

    for name in arguments.rows:
        record["rows"].setdefault(name, {"options": ROWS[name], "each": {}})
    each = {name: record["rows"][name]["each"] for name in arguments.rows}
    for first in arguments.rows:
        searched = _of_the_search(first)
        options = {key: value for key, value in searched.items() if key not in OUR_OWN}
        rad, backbone = options.get("preset") == "rad", None
        for category in categories:
            together = [name for name in each if _of_the_search(name) == searched and category.name not in each[name]]
            if not together:
                continue
            pictures = Pictures(category, searched.get("padded", False))
            if backbone is None and not rad:
                backbone = load_backbone(arguments.backbone, layers=searched.get("layers"), device="cpu")
            matched = search(category, pictures, backbone, options, searched.get("profile"))
            for name in together:
                each[name][category.name] = measure(matched, category, ROWS[name])
            keep()
    for name, found in each.items():
        mean = {key: float(np.mean([one[key] for one in found.values()])) for key in next(iter(found.values()))}
        print(name, {key: round(value, 4) for key, value in mean.items()}, flush=True)
    keep()


def _of_the_search(row: str) -> dict[str, Any]:
    return {key: value for key, value in ROWS[row].items() if key not in OF_THE_SCORE}


if __name__ == "__main__":
    main()
