"""How many pairs the CUDA search's bounds by projections of whole descriptors leave, counted in float64: what the numbers of directions,
and when they are searched, are chosen by (docs/cuda_search.md).

    python benchmarks/projections.py [--output benchmarks/results/projections.json]

Directions are those of fastspade.search.cuda. A pair's coordinates on n of them, and the norms of the rest, bound its distance from
both sides. "held": share of the variance; "told": of a pair's distance, the median of pairs of gallery pixels; "left": share of the
pairs whose lower bound is below the true minimum; "open": least upper bound, divided by the least distance (median). "refined": share of
the pairs that lists, as the kernel fills them for kappa = 1, look at again: the upper bound, by all directions, of the pair that has
the least lower one limits what is listed later. Lists of 31360 gallery pixels, or of all, are filled side by side and share limits
after every tile.

"variance i^-p": random features of three levels, of which direction i has this variance; the others are of photographs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from features import REAL, STORED, load_features, make_features
from machine import write

from fastspade.search.cuda import find_directions

ROWS, LIST, TILE, KEEP = 150, 31360, 128, 9
COUNTS = (31, 63, 127)
FALLING, LEVELS = (1.5, 1.6, 1.7, 1.85, 2.0), ((256, 28, 28), (512, 14, 14), (1024, 7, 7))


def flat(levels: list[torch.Tensor]) -> np.ndarray:
    """(pixels, channels) of whole descriptors on the finest grid."""
    size = levels[0].shape[2:]
    wide = [torch.nn.functional.interpolate(level.double(), size=size, mode="bilinear") for level in levels]
    return torch.cat(wide, dim=1).permute(0, 2, 3, 1).flatten(0, 2).numpy()


def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)


def both_bounds(query: np.ndarray, gallery: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = query @ along, gallery @ along
    rest = [np.sqrt(np.maximum((x * x).sum(1) - (y * y).sum(1), 0)) for x, y in ((query, a), (gallery, b))]
    told = squares(a, b)
    return told + (rest[0][:, None] - rest[1]) ** 2, told + (rest[0][:, None] + rest[1]) ** 2


def listed(low: np.ndarray, refined: np.ndarray, high: np.ndarray) -> float:
    """Share of the pairs that lists get: low bounds list a pair; the high one of the pair with the least refined one limits what is
    listed after a list has been full."""
    pixels, capacity = min(LIST, low.shape[1]), KEEP + 12
    lists, total = low.shape[1] // pixels, 0
    for row in zip(low, refined, high, strict=True):
        lows, seconds, highs = (part[: lists * pixels].reshape(lists, pixels) for part in row)
        limit, room, best = np.inf, [capacity] * lists, [(np.inf, np.inf)] * lists
        for start in range(0, pixels, TILE):
            limits = [limit] * lists
            for i in np.flatnonzero((lows[:, start : start + TILE] <= limit).any(1)):
                at, end = start, min(start + TILE, pixels)
                while at < end:
                    found = at + np.flatnonzero(lows[i, at:end] <= limits[i])[: room[i]]
                    total, room[i] = total + len(found), room[i] - len(found)
                    best[i] = min(best[i], *zip(seconds[i, found], highs[i, found], strict=True), (np.inf, np.inf))
                    if room[i] > 0:
                        break
                    limits[i], room[i], at = min(limits[i], best[i][1]), capacity - KEEP, found[-1] + 1
            limit = min(limits)
    return total / (len(low) * lists * pixels)


def falling(power: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """One query image and 20 gallery images of LEVELS."""
    generator = torch.Generator().manual_seed(0)

    def level(channels: int, height: int, width: int) -> torch.Tensor:
        basis = torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0]
        basis *= torch.arange(1, channels + 1) ** (-power / 2)
        return torch.einsum("dc,nchw->ndhw", basis, torch.randn(21, channels, height, width, generator=generator))

    levels = [level(*shape) for shape in LEVELS]
    return [level[:1] for level in levels], [level[1:] for level in levels]


def counted(data: str, query: list[torch.Tensor], gallery: list[torch.Tensor]) -> list[dict[str, object]]:
    q, g = flat(query), flat(gallery)
    centre = g.mean(0)
    q, g = q[np.random.default_rng(0).permutation(len(q))[:ROWS]] - centre, g - centre
    true = squares(q, g)
    nearest = true.min(1)
    along = find_directions([level.float() for level in gallery]).double().numpy()
    along = along[:, np.square(along).sum(0) > 0.5]
    pairs = np.random.default_rng(1).integers(0, len(g), (2000, 2))
    apart = g[pairs[:, 0]] - g[pairs[:, 1]]
    apart = apart[np.square(apart).sum(1) > 0]
    refined, high = both_bounds(q, g, along)
    rows = []
    for n in (*COUNTS, along.shape[1]):
        low, upper = both_bounds(q, g, along[:, :n])
        left = low <= nearest[:, None]
        row = {
            "data": data,
            "channels": [level.shape[1] for level in gallery],
            "directions": n,
            "held": np.square(g @ along[:, :n]).sum() / np.square(g).sum(),
            "told": np.median(np.square(apart @ along[:, :n]).sum(1) / np.square(apart).sum(1)),
            "left": left.mean(),
            f"rows_with_more_than_{KEEP}_left": (left.sum(1) > KEEP).mean(),
            "open": np.median(upper.min(1) / nearest),
        }
        rows.append(row | ({"refined": listed(low, refined, high)} if n in COUNTS else {}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    output = parser.parse_args().output
    cases = {"stored": lambda: load_features(STORED)}
    cases |= {data: lambda data=data: make_features(data, "efficientnet_lite0", 50) for data in REAL}
    cases |= {f"variance i^-{power}": lambda power=power: falling(power) for power in FALLING}
    rows = []
    for data, sides in cases.items():
        for row in counted(data, *sides()):
            print(json.dumps({name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in row.items()}))
            rows.append(row)
    if output:
        write(output, {"rows": rows})


if __name__ == "__main__":
    main()
