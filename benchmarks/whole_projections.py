"""How many pairs bounds by projections of whole descriptors leave to the CUDA search, counted in float64: what decides whether they
are worth building (docs/cuda_search.md).

    python benchmarks/whole_projections.py [--output benchmarks/results/whole_projections.json]

Directions are sampled gallery pixels, multiplied twice by the covariance of 512 and made orthonormal. A pair's projections on n of
them, and the norms of the rest, bound its distance from both sides. "left": share of the pairs whose lower bound is below the true
minimum; "open": least upper bound, divided by the least distance (median). "refined": share of the pairs that lists, as the kernel
fills them for kappa = 1, look at again. What is looked at again limits what is listed later: "exactly" by its distance, else by the
least upper bound of as many directions as 256 numbers hold. "alone": of lists that keep 32, where each time one is full the distance
of the pair with the least bound is computed, and no other. Lists of 31360 gallery pixels, or of all, are filled side by side and share
limits after every tile.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from features import REAL, STORED, load_features, make_features
from machine import write

SAMPLES, ROWS, LIST, TILE = 512, 150, 31360, 128
KEEP, LONG = 9, 32  # candidates that a list keeps
FIRST, MOST = (31, 63, 127), 253


def flat(levels: list[torch.Tensor]) -> list[np.ndarray]:
    """(pixels, channels) of each level, on the finest grid."""
    size = levels[0].shape[2:]
    wide = [torch.nn.functional.interpolate(level.double(), size=size, mode="bilinear") for level in levels]
    return [level.permute(0, 2, 3, 1).flatten(0, 2).numpy() for level in wide]


def directions(gallery: np.ndarray, count: int) -> np.ndarray:
    """(channels, count), orthonormal."""
    hop = int(0.6180339887498949 * len(gallery)) | 1
    sample = gallery[np.arange(SAMPLES) * hop % len(gallery)]
    found = sample[:count]
    for _ in range(2):
        found = found @ sample.T @ sample
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return np.linalg.qr(found.T)[0]


def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)


def both_bounds(query: np.ndarray, gallery: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = query @ along, gallery @ along
    rest = [np.sqrt(np.maximum((x * x).sum(1) - (y * y).sum(1), 0)) for x, y in ((query, a), (gallery, b))]
    told = squares(a, b)
    return told + (rest[0][:, None] - rest[1]) ** 2, told + (rest[0][:, None] + rest[1]) ** 2


def listed(low: np.ndarray, high: np.ndarray, keep: int, best_alone: bool = False) -> tuple[float, float]:
    """Share of the pairs that lists get, and how often a list is cut back: low bounds list a pair; high ones limit what is listed
    after it, those of all pairs in a list or of the one with the least low bound."""
    pixels, capacity = min(LIST, low.shape[1]), keep + max(12, keep // 2)
    lists, total, cuts = low.shape[1] // pixels, 0, 0
    for lows, highs in zip(low, high, strict=True):
        lows, highs = (part[: lists * pixels].reshape(lists, pixels) for part in (lows, highs))
        limit, room, best = np.inf, [capacity] * lists, [(np.inf, np.inf)] * lists
        for start in range(0, pixels, TILE):
            limits = [limit] * lists
            for i in np.flatnonzero((lows[:, start : start + TILE] <= limit).any(1)):
                at, end = start, min(start + TILE, pixels)
                while at < end:
                    found = at + np.flatnonzero(lows[i, at:end] <= limits[i])[: room[i]]
                    total, room[i] = total + len(found), room[i] - len(found)
                    order = lows if best_alone else highs
                    best[i] = min(best[i], *zip(order[i, found], highs[i, found], strict=True), (np.inf, np.inf))
                    if room[i] > 0:
                        break
                    limits[i], room[i], at, cuts = min(limits[i], best[i][1]), capacity - keep, found[-1] + 1, cuts + 1
            limit = min(limits)
    count = len(low) * lists
    return total / (count * pixels), cuts / count


def counted(data: str) -> list[dict[str, object]]:
    query, gallery = load_features(STORED) if data == "stored" else make_features(data, "efficientnet_lite0", 50)
    sides = [flat(query), flat(gallery)]
    chosen = np.random.default_rng(0).permutation(len(sides[0][0]))[:ROWS]
    centres = [level.mean(0) for level in sides[1]]
    levels = [[level - centre for level, centre in zip(side, centres, strict=True)] for side in sides]
    levels[0] = [level[chosen] for level in levels[0]]
    q, g = (np.concatenate(side, axis=1) for side in levels)
    true = squares(q, g)
    nearest = true.min(1)
    along = directions(g, min(MOST, g.shape[1] - 1))
    shares = np.cumsum(np.square(g @ along).sum(0)) / np.square(g).sum()

    def row(form: str, n: int, low: np.ndarray, high: np.ndarray) -> dict[str, object]:
        left = low <= nearest[:, None]
        return {
            "data": data,
            "channels": [level.shape[1] for level in levels[1]],
            "form": form,
            "directions": n,
            "left": left.mean(),
            **{f"rows_with_more_than_{keep}_left": (left.sum(1) > keep).mean() for keep in (KEEP, LONG)},
            "open": np.median(high.min(1) / nearest),
        }

    rows = []
    upper = both_bounds(q, g, along)[1]
    for n in sorted({*FIRST, along.shape[1]}):
        low, high = both_bounds(q, g, along[:, :n])
        rows.append(row("whole", n, low, high) | {"held": shares[n - 1]})
        if n in FIRST:
            rows[-1] |= {"refined_exactly": listed(low, true, KEEP)[0], "refined": listed(low, upper, KEEP)[0]}
            rows[-1]["listed_alone"], rows[-1]["cuts_alone"] = listed(low, true, LONG, best_alone=True)
    if levels[1][0].shape[1] > 128:  # about as the engine projects
        low, high = both_bounds(levels[0][0], levels[1][0], directions(levels[1][0], 31))
        coarse = sum(squares(a, b) for a, b in zip(*(side[1:] for side in levels), strict=True))
        rows.append(row("finest", 31, coarse + low, coarse + high) | {"refined_exactly": listed(coarse + low, true, KEEP)[0]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    output = parser.parse_args().output
    rows = []
    for data in ("stored", *REAL):
        for row in counted(data):
            print(json.dumps({name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in row.items()}))
            rows.append(row)
    if output:
        write(output, {"rows": rows})


if __name__ == "__main__":
    main()
