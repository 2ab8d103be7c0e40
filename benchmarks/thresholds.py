"""How many new good images do thresholds from few normal images call defects? Several estimators, on resampled scores.

    python benchmarks/thresholds.py DATASET[:LAYOUT] ... --cache FOLDER [--out FILE]                        (needs ".[demo,eval]")

Of every category the normal images' scores, each against all the others, and the good test images' scores are drawn from: some for
the threshold, the others are the new images. Printed: the mean share beyond the threshold, and the share that it stays below
in 9 of 10 draws. Larger draws than half the scores are left out. Then, with the threshold of all normal images, the shares of
defects found and of good test images called defects; and with the threshold that nobody has, of all good images, the new ones
too: what is beyond reach for any estimator that keeps to the target. FOLDER: as of `benchmarks/image_scores.py`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import left_out
import numpy as np
from machine import describe
from scipy import stats

from fastspade.spade.relative import ceiling_of, left_out_relative_scores, relative_scores
from fastspade.spade.threshold import tail_quantile

DRAWS, SIZES, TARGETS = 20, (24, 50, 100, 150, 300), (0.01, 0.02, 0.05)
KNOWN = "known: the order statistic of all good images"  # new ones too, which no estimator has


def order_statistic(scores: np.ndarray, target: float) -> float:
    return float(np.sort(scores)[-1 - int(target * len(scores))])


def log_normal(scores: np.ndarray, target: float) -> float:
    logs = np.log(scores)
    return float(np.exp(logs.mean() + logs.std(ddof=1) * stats.norm.isf(target)))


def pareto(scores: np.ndarray, target: float) -> float:
    """A generalised Pareto distribution of what exceeds the two-thirds quantile."""
    ordered = np.sort(scores)[::-1]
    count = max(8, len(scores) // 3)
    shape, _, scale = stats.genpareto.fit(ordered[:count] - ordered[count], floc=0)
    return float(ordered[count] + stats.genpareto.isf(target * len(scores) / count, shape, 0, scale))


def trimmed(scores: np.ndarray, target: float) -> float:
    """A Gumbel fit without the highest 3 %, at least one: they may be of strange normal images."""
    return float(stats.gumbel_r.isf(target, *stats.gumbel_r.fit(np.sort(scores)[: -max(1, int(0.03 * len(scores)))])))


def rejecting(scores: np.ndarray, target: float) -> float:
    """A Gumbel fit without scores that it expects less than 0.05 images beyond, the highest first."""
    ordered = np.sort(scores)
    while len(ordered) > 2:
        fit = stats.gumbel_r.fit(ordered[:-1])
        if len(ordered) * stats.gumbel_r.sf(ordered[-1], *fit) >= 0.05:
            break
        ordered = ordered[:-1]
    return float(stats.gumbel_r.isf(target, *stats.gumbel_r.fit(ordered)))


def censored(scores: np.ndarray, target: float) -> float:
    """A Gumbel fit to which the highest tenth are only known to be higher than the others."""
    known, above = np.split(np.sort(scores), [-max(1, len(scores) // 10)])
    data = stats.CensoredData(uncensored=known, right=np.full(len(above), known[-1]))
    return float(stats.gumbel_r.isf(target, *stats.gumbel_r.fit(data)))


def quartiles(scores: np.ndarray, target: float) -> float:
    """A Gumbel distribution through the quartiles."""
    low, high = np.quantile(scores, [0.25, 0.75])
    at = stats.gumbel_r.ppf([0.25, 0.75, 1 - target])
    return float(high + (high - low) * (at[2] - at[1]) / (at[1] - at[0]))


def moments(scores: np.ndarray, target: float) -> float:
    """A Gumbel fit by L-moments."""
    ordered = np.sort(scores)
    scale = (np.average(ordered, weights=np.arange(len(ordered))) - ordered.mean()) / np.log(2)
    return float(stats.gumbel_r.isf(target, ordered.mean() - np.euler_gamma * scale, scale))


ESTIMATORS: dict[str, Callable[[np.ndarray, float], float]] = {
    "fastspade: Gumbel fit": tail_quantile,
    "Gumbel fit without the highest 3 %": trimmed,
    "Gumbel fit, outliers rejected": rejecting,
    "Gumbel fit, the highest tenth censored": censored,
    "Gumbel through the quartiles": quartiles,
    "Gumbel by L-moments": moments,
    "order statistic": order_statistic,
    "log-normal fit": log_normal,
    "generalised Pareto fit": pareto,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET[:LAYOUT]")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    shares: dict[tuple[int, float, str], list[float]] = {}
    decided: dict[str, dict[str, list[float]]] = {name: {"found": [], "alarms": []} for name in [*ESTIMATORS, KNOWN]}
    random = np.random.default_rng(0)
    sets = left_out.read(arguments.datasets, arguments.backbone, arguments.cache)
    for data in sets:
        cells, test_cells = data.cells()
        normal, test = left_out_relative_scores(cells).numpy(), relative_scores(test_cells, ceiling_of(cells)).numpy()
        good = np.concatenate([normal, test[~data.defect]])
        draw(good, random, shares)
        thresholds = {name: estimate(normal, 0.01) for name, estimate in ESTIMATORS.items()}
        for name, threshold in (thresholds | {KNOWN: order_statistic(good, 0.01)}).items():
            decided[name]["found"].append(float((test[data.defect] > threshold).mean()))
            decided[name]["alarms"].append(float((test[~data.defect] > threshold).mean()))
        print(f"{data.name}: {len(normal)} normal images, {len(test)} test images", flush=True)
    rows = summarise(shares)
    decisions: dict[str, dict[str, Any]] = {
        name: {what: float(np.mean(values)) for what, values in both.items()} | {"each": both} for name, both in decided.items()
    }
    for name, both in decisions.items():
        print(f"all normal images, target 1%, {name:38s} found {both['found']:6.2%}, alarms {both['alarms']:6.2%}")
    if arguments.out:
        record = {"sets": [data.name for data in sets], "rows": rows, "decisions": decisions, "machine": describe("scipy")}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def draw(scores: np.ndarray, random: np.random.Generator, shares: dict[tuple[int, float, str], list[float]]) -> None:
    """Adds to `shares` what lies beyond the thresholds of one category."""
    for size in (size for size in SIZES if 2 * size <= len(scores)):
        for _ in range(DRAWS):
            mixed = random.permutation(scores)
            for target in TARGETS:
                for name, estimate in ESTIMATORS.items():
                    beyond = float((mixed[size:] > estimate(mixed[:size], target)).mean())
                    shares.setdefault((size, target, name), []).append(beyond)


def summarise(shares: dict[tuple[int, float, str], list[float]]) -> list[dict[str, Any]]:
    record: list[dict[str, Any]] = []
    for (size, target, name), found in sorted(shares.items()):
        record.append(
            {"images": size, "target": target, "estimator": name, "mean": np.mean(found), "9 of 10": np.quantile(found, 0.9)}
        )
        print(
            f"{size:4d} images, target {target:.0%}, {name:38s} {np.mean(found):6.2%}, 9 of 10 below {np.quantile(found, 0.9):6.2%}"
        )
    return record


if __name__ == "__main__":
    main()
