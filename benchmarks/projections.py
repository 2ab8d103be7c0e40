"""How many pairs the CUDA search's bounds by projections leave, counted in float64: what docs/cuda_search.md chooses by.

    python benchmarks/projections.py [--output benchmarks/results/projections.json]

Form "finest", which is built: 31 directions of the finest level and the rest's norm bound its distance, coarser levels count whole.
Form "whole", which is not: directions of the whole interpolated descriptor bound all of it. Directions are sampled gallery pixels,
multiplied once by the sample's covariance and made orthonormal.

"untold": the share of a distance that projections do not tell (median of pairs of gallery pixels). "left": share of the pairs whose
lower bound is below the true minimum. "refined": share of the pairs that lists, as the kernel fills them for kappa = 1, look at
again; distances limit what is listed later. "rows_with_more_left": share of the rows of which more pairs are left than a list keeps,
which would be searched again, were there nothing to refine bounds by but these directions. Lists of 31360 gallery pixels, or of
all, are filled side by side and share limits after every tile.

Features are those of photographs, "stored": benchmarks/real_features.npz, activations inside efficientnet_lite0's blocks, of low rank
by their making; or random ones of three levels, of which direction i has the variance i^-p.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from features import REAL, STORED, load_features, make_features
from machine import write

ROWS, LIST, TILE, KEEP, CAPACITY = 150, 31360, 128, 9, 21
FINEST, WHOLE = 31, (63, 253)
FALLING, LEVELS = (1.0, 1.25, 1.5, 1.75, 2.0), ((256, 28, 28), (512, 14, 14), (1024, 7, 7))
Sides = tuple[list[torch.Tensor], list[torch.Tensor]]


def flat(levels: list[torch.Tensor]) -> list[np.ndarray]:
    """(pixels, channels) of each level, on the finest grid."""
    size = levels[0].shape[2:]
    wide = [torch.nn.functional.interpolate(level.double(), size=size, mode="bilinear") for level in levels]
    return [level.permute(0, 2, 3, 1).flatten(0, 2).numpy() for level in wide]


def directions(gallery: np.ndarray, count: int) -> np.ndarray:
    """(channels, count), orthonormal."""
    hop = int(0.6180339887498949 * len(gallery)) | 1
    sample = gallery[np.arange(2 * max(count, 128)) * hop % len(gallery)]
    return np.linalg.qr((sample[:count] @ sample.T @ sample).T)[0]


def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)


def projected(features: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Coordinates and the rest's norm: distances of these are bounds."""
    found = features @ along
    return np.column_stack([found, np.sqrt(np.maximum(np.square(features).sum(1) - np.square(found).sum(1), 0))])


def listed(low: np.ndarray, distances: np.ndarray) -> float:
    """Share of the pairs that lists get."""
    pixels = min(LIST, low.shape[1])
    lists, total = low.shape[1] // pixels, 0
    for row in zip(low, distances, strict=True):
        lows, exact = (part[: lists * pixels].reshape(lists, pixels) for part in row)
        limit, room, best = np.inf, [CAPACITY] * lists, [np.inf] * lists
        for start in range(0, pixels, TILE):
            limits = [limit] * lists
            for i in np.flatnonzero((lows[:, start : start + TILE] <= limit).any(1)):
                at, end = start, min(start + TILE, pixels)
                while at < end:
                    found = at + np.flatnonzero(lows[i, at:end] <= limits[i])[: room[i]]
                    total, room[i] = total + len(found), room[i] - len(found)
                    best[i] = min(best[i], *exact[i, found], np.inf)
                    if room[i] > 0:
                        break
                    limits[i], room[i], at = min(limits[i], best[i]), CAPACITY - KEEP, found[-1] + 1
            limit = min(limits)
    return total / (len(low) * lists * pixels)


def falling(power: float) -> Sides:
    """One query image and 20 gallery images of LEVELS."""
    generator = torch.Generator().manual_seed(0)

    def level(channels: int, height: int, width: int) -> torch.Tensor:
        basis = torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0]
        basis *= torch.arange(1, channels + 1) ** (-power / 2)
        return torch.einsum("dc,nchw->ndhw", basis, torch.randn(21, channels, height, width, generator=generator))

    levels = [level(*shape) for shape in LEVELS]
    return [level[:1] for level in levels], [level[1:] for level in levels]


def counted(data: str, sides: Sides) -> list[dict[str, object]]:
    query, gallery = (flat(side) for side in sides)
    chosen = np.random.default_rng(0).permutation(len(query[0]))[:ROWS]
    centres = [level.mean(0) for level in gallery]
    query = [level[chosen] - centre for level, centre in zip(query, centres, strict=True)]
    gallery = [level - centre for level, centre in zip(gallery, centres, strict=True)]
    parts = [squares(q, g) for q, g in zip(query, gallery, strict=True)]
    true = sum(parts)
    nearest = true.min(1)
    pairs = np.random.default_rng(1).integers(0, len(gallery[0]), (2000, 2))

    def apart(level: np.ndarray) -> np.ndarray:
        return np.square(level[pairs[:, 0]] - level[pairs[:, 1]]).sum(1)

    whole = sum(map(apart, gallery))

    def row(form: str, count: int, sides: tuple[np.ndarray, np.ndarray], rest: np.ndarray | float) -> dict[str, object]:
        along = directions(sides[1], count)
        q, g = (projected(side, along) for side in sides)
        low = squares(q, g) + rest
        left = low <= nearest[:, None]
        return {
            "data": data,
            "channels": [level.shape[1] for level in gallery],
            "form": form,
            "directions": count,
            "untold": np.median((apart(sides[1]) - apart(g)) / np.maximum(whole, 1e-300)),
            "left": left.mean(),
            "rows_with_more_left": (left.sum(1) > KEEP).mean(),
            "refined": listed(low, true),
        }

    rows = [row("finest", FINEST, (query[0], gallery[0]), sum(parts[1:]))]
    joined = tuple(np.concatenate(side, axis=1) for side in (query, gallery))
    return rows + [row("whole", count, joined, 0.0) for count in WHOLE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    output = parser.parse_args().output
    cases = {f"{data}, resnet50_thin": lambda data=data: make_features(data, "resnet50_thin", 50) for data in REAL}
    cases["stored"] = lambda: load_features(STORED)
    cases |= {f"variance i^-{power}": lambda power=power: falling(power) for power in FALLING}
    rows = []
    for data, sides in cases.items():
        for row in counted(data, sides()):
            print(json.dumps({name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in row.items()}))
            rows.append(row)
    if output:
        write(output, {"rows": rows})


if __name__ == "__main__":
    main()
