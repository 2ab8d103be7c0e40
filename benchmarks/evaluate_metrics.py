"""How long do exact pixel metrics of a large test set take, and how much memory beyond the maps themselves?

    python benchmarks/evaluate_metrics.py [--images 100] [--side 1024] [--out benchmarks/results/evaluate_metrics.json]

Makes smooth random maps with defects, then times pixel ROC-AUC, average precision, F1-max and PRO, in seconds of the processor: each
on its own, as a caller would, and all four from one count, as `fastspade eval` does.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
from machine import describe

from fastspade.evaluate import average_precision, f1_max, pro, roc_auc
from fastspade.evaluate.metrics import average_precision_of, f1_max_of, roc_auc_of
from fastspade.evaluate.pro import pixel_counts, pro_of


def make(images: int, side: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Maps (side, side) float32, all values distinct as real maps' are; three quarters hold one to three discs."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    maps, masks = [], []
    for i in range(images):
        mask = np.zeros((side, side), dtype=bool)
        for _ in range(random.integers(1, 4) if i % 4 else 0):
            centre, radius = random.uniform(0.1, 0.9, 2) * side, random.uniform(0.02, 0.1) * side
            mask |= (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        values = random.standard_normal((side, side), dtype=np.float32)
        values += np.sin(y / side * random.uniform(2, 9)) + 1.5 * mask
        maps.append(values)
        masks.append(mask)
    return maps, masks


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    maps, masks = make(arguments.images, arguments.side)
    held = sum(one.nbytes for one in maps + masks) / 2**20
    before = peak_mib()
    record: dict[str, object] = {"maps_and_masks_mib": round(held), "seconds": {}, "values": {}}

    start = time.process_time()
    data = pixel_counts(maps, masks)
    together = [pro_of(data), roc_auc_of(data), average_precision_of(data), f1_max_of(data)[0]]
    record["seconds"]["all four, counted once"] = round(time.process_time() - start, 2)
    record["extra_peak_mib"] = round(peak_mib() - before)
    record["positives"], record["regions"] = int(data.positives.sum()), data.regions
    del data
    calls = {
        "pro": lambda: pro(maps, masks),
        "roc_auc": lambda: roc_auc(masks, maps),
        "average_precision": lambda: average_precision(masks, maps),
        "f1_max": lambda: f1_max(masks, maps),
    }
    for (name, call), expected in zip(calls.items(), together, strict=True):
        start = time.process_time()
        value = call()
        record["seconds"][name] = round(time.process_time() - start, 2)
        record["values"][name] = value
        assert value == expected, (name, value, expected)
    record |= {"images": arguments.images, "side": arguments.side, "machine": describe()}
    print(json.dumps(record, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
