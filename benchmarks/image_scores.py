"""Which image score finds defects, and decides well? The default's variants, and others, on any labelled datasets.

    python benchmarks/image_scores.py DATASET[:LAYOUT] ... --cache FOLDER [--out FILE]                      (needs ".[demo,eval]")

Every category is searched once, with the default options; its maps are kept in FOLDER, which other runs and
`benchmarks/thresholds.py` read. found: the defects above the threshold of all normal images' own scores at a target of 1 %; alarms:
the good test images above it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import left_out
import numpy as np
import torch
from left_out import LeftOut
from machine import describe

from fastspade.evaluate import roc_auc
from fastspade.maps.process import gaussian_matrix
from fastspade.spade.relative import COMMON, DEVIATIONS, HIGHEST, SMOOTHING, USUAL
from fastspade.spade.threshold import tail_quantile

Scores = tuple[torch.Tensor, torch.Tensor]  # logarithms, of normal images (N,) and of test images (M,)


def knn(k: int) -> Callable[[LeftOut], Scores]:
    return lambda data: tuple(part[:, :k].double().mean(1).log() for part in (data.normal_distances, data.test_distances))


def of_map(share: float, sigma: float = left_out.SIGMA) -> Callable[[LeftOut], Scores]:
    """The mean of the highest share of the map's pixels."""
    return lambda data: tuple(highest(left_out.smoothed(part, sigma), share).log() for part in (data.normal, data.test))


def highest(maps: torch.Tensor, share: float) -> torch.Tensor:
    values = maps.flatten(1)
    return values.topk(max(1, round(share * values.shape[1]))).values.double().mean(1)


def relative(
    sigma: float = left_out.SIGMA, deviations: float = DEVIATIONS, common: float = COMMON, shares: tuple[float, ...] = (HIGHEST,),
    power: float = USUAL,
) -> Callable[[LeftOut], Scores]:  # fmt: skip
    """As `fastspade.spade.relative`; several shares: their scores multiplied."""

    def score(cells: torch.Tensor, ceiling: torch.Tensor) -> torch.Tensor:
        limit = (ceiling + common * ceiling.mean(dim=(-2, -1), keepdim=True)) / (1 + common)
        risen = cells / limit.clamp(min=1e-30)
        usual = risen.flatten(1).median(1).values.double().log()
        return torch.stack([highest(risen, share).log() for share in shares]).mean(0) - power * usual

    def scores(data: LeftOut) -> Scores:
        normal, test = data.cells(sigma)
        total, squares = normal.double().sum(0), normal.double().square().sum(0)

        def ceiling(images: int, total: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
            mean = total / images
            cells = (mean + deviations * (squares / images - mean.square()).clamp(min=0).sqrt()).float()
            rows, columns = (gaussian_matrix(side, SMOOTHING) for side in cells.shape)
            return rows @ (cells @ columns.T)

        others = [ceiling(len(normal) - 1, total - own, squares - own.square()) for own in normal.double()]
        return score(normal, torch.stack(others)), score(test, ceiling(len(normal), total, squares)[None])

    return scores


def joined(
    one: Callable[[LeftOut], Scores], other: Callable[[LeftOut], Scores], weight: float, larger: bool = False
) -> Callable[[LeftOut], Scores]:
    """The sum of both's z-scores under the normal images', the other's weighted; or the larger one."""

    def scores(data: LeftOut) -> Scores:
        both = []
        for kind in (one, other):
            normal, test = kind(data)
            both.append([(part - normal.median()) / normal.std() for part in (normal, test)])
        pairs = zip(*both, strict=True)
        return tuple(torch.maximum(a, weight * b) / 10 if larger else (a + weight * b) / 10 for a, b in pairs)

    return scores


VARIANTS: dict[str, Callable[[LeftOut], Scores]] = {
    "the default": relative(),
    "knn, K = 50": knn(50),
    "knn, K = 3": knn(3),
    "knn, K = 1": knn(1),
    "the map's highest value": of_map(0),
    "mean of its highest 1 %": of_map(0.01),
    "its highest value before smoothing": of_map(0, 0.0),
    "relative, not smoothed": relative(sigma=0.0),
    "relative, smoothed twice as much": relative(sigma=2 * left_out.SIGMA),
    "ceiling: the mean": relative(deviations=0),
    "ceiling: 2 deviations above the mean": relative(deviations=2),
    "ceiling: a cell's own alone": relative(common=0),
    "ceiling: a cell's own and the mean of all alike": relative(common=1),
    "highest 0.05 % of the quotients": relative(shares=(0.0005,)),
    "highest 0.2 %": relative(shares=(0.002,)),
    "highest 0.5 %": relative(shares=(0.005,)),
    "highest 2 %": relative(shares=(0.02,)),
    "highest 5 %": relative(shares=(0.05,)),
    "highest 0.2 % and 2 % multiplied": relative(shares=(0.002, 0.02)),
    "highest 0.1 %, 1 % and 5 % multiplied": relative(shares=(0.001, 0.01, 0.05)),
    "not over the median": relative(power=0),
    "over the median^1/2": relative(power=0.5),
    "over the median": relative(power=1),
    "relative and knn, K = 1, by z-scores": joined(relative(), knn(1), 1),
    "the same, knn a quarter": joined(relative(), knn(1), 0.25),
    "the larger of both": joined(relative(), knn(1), 1, larger=True),
}


def measure(data: LeftOut, scores: Scores) -> dict[str, float]:
    normal, test = (part.exp().numpy() for part in scores)
    above = test > tail_quantile(normal, 0.01)
    return {
        "image_roc_auc": float(roc_auc(data.defect, test)),
        "found": float(above[data.defect].mean()),
        "alarms": float(above[~data.defect].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET[:LAYOUT]")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sets = left_out.read(arguments.datasets, arguments.backbone, arguments.cache, arguments.k)
    rows = {}
    for name, variant in VARIANTS.items():
        each = {data.name: measure(data, variant(data)) for data in sets}
        mean = {key: float(np.mean([one[key] for one in each.values()])) for key in ("image_roc_auc", "found", "alarms")}
        rows[name] = {"mean": mean, "lowest": min(one["image_roc_auc"] for one in each.values()), "each": each}
        print(f"{name:45s}", " ".join(f"{key} {100 * value:5.1f}" for key, value in mean.items()), flush=True)
    images = {data.name: [len(data.normal), int((~data.defect).sum()), int(data.defect.sum())] for data in sets}
    if arguments.out:
        record = {"machine": describe("scipy"), "backbone": arguments.backbone, "k": arguments.k, "images": images, "rows": rows}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
