"""What a pair of pixels costs the CUDA search, counted from the plan, and how long that would take: a calculation, no measurement.

    python benchmarks/cuda_model.py [--output benchmarks/results/cuda_model.json]

Forms: "whole" multiplies all channels of the finest level. "projections" has 31 directions and the rest's norm in its place, and
looks at all its channels for the pairs that are left; the engine takes it where they tell most of the distance. "native", which
is not built, multiplies the coarse levels at their own resolution on both sides, too, and expands the products with matrices of
interpolation weights. No GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from machine import write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fastspade.search.cuda import plan_cuda

PAPER = ((256, 56, 56), (512, 28, 28), (1024, 14, 14))
IMAGES = 50
TILE_PIXELS = 128  # of the gallery
PROJECTED, MULTIPLIED = 32, 64  # channels of projections, and of the steps they fill with zeros
# Share of pairs that are refined, of real features of 144 + 240 + 672 channels, as test_cuda_projections.listed counts: kappa = 1,
# 31360 gallery pixels a list, of which a fifth of 50 images has as many.
LEFT = {"aligned": 2.3e-3, "brick": 1.9e-3, "grass": 2.1e-3}
REFINED_BYTES = 2 * PAPER[0][0] + 2 * PROJECTED + 32  # a pair's 16-bit gallery vector, its projections, and terms of both
EXPANSION = 54  # multiply-adds a pair, of products with interpolation weights
EPILOGUE_BYTES = {"sm80": 16 + 4, "sm90a": 7 + 4}  # of shared memory a pair: coarse values, terms of rows
REACHED = 0.8  # of the matrix units' peak, as large matrix products do


@dataclass(frozen=True)
class Device:
    """A multiprocessor's rates are per cycle; l2 is what is assumed of the second-level cache, in bytes."""

    name: str
    limits: tuple[int, int, bool]  # shared bytes of a block, multiprocessors, sm_90a
    gigahertz: float
    multiply_adds: int
    l2: float
    shared: int = 128


DEVICES = (
    Device("A100", (166912, 108, False), 1.41, 1024, 40),
    Device("H100", (232448, 132, True), 1.755, 2048, 28),
    Device("L4", (101376, 58, False), 2.04, 512, 28),
)


def tiles(level: tuple[int, int, int], stride: int) -> int:
    return -(-level[1] * level[2] // stride)


def counts(engine: ModuleType, device: Device) -> dict[str, dict[str, float]]:
    """Form -> multiply-adds, bytes of the second-level cache and of shared memory, a pair; the search's inner loop alone."""
    engine.set_device(*device.limits)
    query, gallery = ([torch.empty(1).expand(n, *level) for level in PAPER] for n in (1, IMAGES))
    plan = plan_cuda(query, gallery, 1, IMAGES, 1, engine=engine)
    rows, pixels = plan["tile_rows"], PAPER[0][1] * PAPER[0][2]
    # Channels that a tile of queries multiplies with tiles of one gallery image.
    run = [tiles(level, stride) * level[0] for level, stride in zip(PAPER, plan["strides"], strict=True)]
    copied, projected = ([tiles(PAPER[0], TILE_PIXELS) * channels, *run[1:]] for channels in (PROJECTED, MULTIPLIED))
    # A coarse level's queries are its own pixels: so many fewer tiles of them as its pixels are fewer.
    coarse = [work * level[1] * level[2] / pixels for work, level in zip(run[1:], PAPER[1:], strict=True)]
    # Bytes that the products read for 16 channels of a tile: by two wgmma, or by eight warps of 2 x 4.
    if plan["path"] == "sm90a":
        operands = 2 * (64 + rows) * 32
    else:
        operands = 8 * (rows // 2 + TILE_PIXELS // 4) * 32
    left = max(LEFT.values()) * REFINED_BYTES
    found = {}
    for form, work, read, more_work, more_l2 in (
        ("whole", run, run, 0, 0),
        ("projections", projected, copied, 0, left),
        ("native", [projected[0], *coarse], [copied[0], *coarse], EXPANSION, left),
    ):
        channels = sum(work) * TILE_PIXELS / pixels
        found[form] = {
            "multiply_adds": channels + more_work,
            "l2_bytes": sum(read) * TILE_PIXELS / pixels * 2 * (rows + TILE_PIXELS) / (rows * TILE_PIXELS) + more_l2,
            "shared_bytes": channels * operands / 16 / (rows * TILE_PIXELS) + EPILOGUE_BYTES[plan["path"]],
        }
    return found


def predicted(device: Device, count: dict[str, float]) -> dict[str, float]:
    """Milliseconds an image that each resource would take, were it alone."""
    pairs = IMAGES * (PAPER[0][1] * PAPER[0][2]) ** 2
    cycles = pairs / (device.limits[1] * device.gigahertz * 1e6)  # of one multiprocessor, a unit a pair and cycle
    return {
        "products": cycles * count["multiply_adds"] / device.multiply_adds / REACHED,
        "second-level cache": cycles * count["l2_bytes"] / device.l2,
        "shared memory": cycles * count["shared_bytes"] / device.shared,
    }


def model(engine: ModuleType) -> list[dict[str, object]]:
    rows = []
    for device in DEVICES:
        for form, count in counts(engine, device).items():
            times = predicted(device, count)
            binds = max(times, key=times.__getitem__)
            rows.append({"device": device.name, "form": form, **count, "milliseconds": times[binds], "binds": binds})
    return rows


def main() -> None:
    from emulated_engine import build

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        rows = model(build(Path(folder)))
    for row in rows:
        print(json.dumps({name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()}))
    if output:
        write(output, {"images": IMAGES, "shapes": PAPER, "rows": rows})


if __name__ == "__main__":
    main()
