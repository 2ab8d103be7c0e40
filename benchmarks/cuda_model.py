"""What a pair of pixels costs the CUDA search, counted from the plan and the machine code, and how long that would take: a
calculation, beside what a GPU takes where there is one.

    python benchmarks/cuda_model.py [--output benchmarks/results/cuda_model.json]
    python benchmarks/cuda_model.py --here    # this machine's GPU alone

Forms: "whole" multiplies all channels of the finest level. "projections" has 31 directions and the rest's norm in its place, and
looks at all its channels for the pairs that are left; the engine takes it where they tell most of the distance. No GPU is needed, but
cuobjdump and an engine built for sm_80 and sm_90a.

Where there is a GPU, the same search is measured on it, of features for which the engine takes "whole" and of some for which it
takes "projections", and each is compared with what is calculated for this GPU's plan, multiprocessors and clock.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from machine import write
from profile_cuda import kernels_of, part_of
from timing import measure

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from machine_code import cuobjdump, dumped, main_loop
from projected_features import low_rank, random

from fastspade.search.cpu import compiled_engine
from fastspade.search.cuda import COUNTERS, has_cuda_engine, plan_cuda, prepare_gallery_cuda, search_cuda

if TYPE_CHECKING:
    from fastspade._engine import CudaPlan

PAPER = ((256, 56, 56), (512, 28, 28), (1024, 14, 14))
IMAGES = 50
TILE_PIXELS = 128  # of the gallery
PROJECTED = 32  # channels of projections
# Share of pairs that are refined: the most of any photographs in projections.py that fill lists as 50 images do.
LEFT = max(
    row["refined"]
    for row in json.loads(Path(__file__).with_name("results").joinpath("projections.json").read_text())["rows"]
    if row["form"] == "finest" and "resnet50_thin" in row["data"]
)
REFINED_BYTES = 2 * PAPER[0][0] + 2 * PROJECTED + 32  # a pair's 16-bit gallery vector, its projections, and terms of both
EPILOGUE_BYTES = {"sm80": (16, 4), "sm90a": (7, 4)}  # of shared memory a pair: coarse values; terms of rows and columns
REACHED = 0.8  # of the matrix units' peak, as large matrix products do
Instructions = dict[str, dict[str, dict[str, int]]]


@dataclass(frozen=True)
class Device:
    """A multiprocessor's rates are per cycle; l2 is what is assumed of the second-level cache, in bytes."""

    name: str
    limits: tuple[int, int, bool]  # shared bytes of a block, multiprocessors, sm_90a
    gigahertz: float
    multiply_adds: int
    l2: float
    shared: int = 128
    slots: int = 4  # instructions that a multiprocessor issues, of a warp each


DEVICES = (
    Device("A100", (166912, 108, False), 1.41, 1024, 40),
    Device("H100", (232448, 132, True), 1.755, 2048, 28),
    Device("L4", (101376, 58, False), 2.04, 512, 28),
)
SAME_CHIP = {"H200": "H100", "GH200": "H100"}


class Product(NamedTuple):
    """So many times, of gallery rows by query columns over channels."""

    times: float
    rows: int
    columns: int
    channels: int
    read: int  # rows that are copied
    multiplied: int = 0  # channels, with padding; 0: as many


class Form(NamedTuple):
    """For each gallery image and tile of queries: products, tiles of the finest level and of coarse ones; `pairs` of these, without
    padding, and bytes that refinement reads a pair."""

    products: list[Product]
    pairs: float
    finest: float
    coarse: float
    refined: float = 0.0


def forms(strides: list[int], rows: int, step: int) -> dict[str, Form]:
    """step: channels that a product of projections has at least."""
    tiles = [-(-h * w // stride) for (_, h, w), stride in zip(PAPER, strides, strict=True)]
    whole, *coarse = [
        Product(n, TILE_PIXELS, rows, c, stride) for n, stride, (c, _, _) in zip(tiles, strides, PAPER, strict=True)
    ]
    projections = whole._replace(channels=PROJECTED, multiplied=step)
    counted = PAPER[0][1] * PAPER[0][2] * rows, tiles[0]
    return {
        "whole": Form([whole, *coarse], *counted, sum(tiles[1:])),
        "projections": Form([projections, *coarse], *counted, sum(tiles[1:]), LEFT * REFINED_BYTES),
    }


def issued(parts: dict[str, dict[str, int]], path: str, rows: int, step: int, form: Form) -> float:
    """Instructions of a warp, a pair."""
    of = {name: sum(classes.values()) for name, classes in parts.items()}
    # What a step copies and multiplies, of the kernel's own tiles.
    tile = TILE_PIXELS * rows * step
    multiplied = sum(p.times * p.rows * p.columns * (p.multiplied or p.channels) for p in form.products) / tile
    copied = sum(p.times * -(-p.channels // step) for p in form.products)
    levels = [PAPER[0][1] // height for _, height, _ in PAPER[1:]]
    if path == "sm90a":
        # Both the first step and the others have products; a thread's four pixels read 4 / r + 2 rows, each mixed into some of them.
        work = of["products"] / 2 * multiplied + of["step"] * copied
        taps = sum(of["taps"] + (4 // r + 2) * of["rows"] + 2 * of["mixed"] for r in levels)
        threads = 128
    else:
        work = (
            of["products"] * multiplied + of["step"] * copied + of["column"] / 2 * form.finest
        )  # half of the warps prepare columns
        taps = len(levels) * of["taps"]
        threads = 256
    return (work + (of["tile"] + taps) * form.finest + of["coarse"] * form.coarse) * threads / 32 / form.pairs


def planned(engine: ModuleType, where: torch.device) -> CudaPlan:
    query, gallery = ([torch.empty(1, device=where).expand(n, *level) for level in PAPER] for n in (1, IMAGES))
    return plan_cuda(query, gallery, 1, IMAGES, 1, engine=engine)


def counts(plan: CudaPlan, instructions: Instructions) -> dict[str, dict[str, float]]:
    """Form -> multiply-adds, bytes of the second-level cache and of shared memory, instructions, a pair."""
    path, rows, strides = plan["path"], plan["tile_rows"], plan["strides"]
    step = 64 if path == "sm90a" else plan["step_channels"]

    def operand_bytes(product: Product) -> float:
        """That the products read for 16 channels: wgmma, 64 rows at a time, or eight warps of 2 x 4."""
        if path == "sm90a":
            return -(-product.rows // 64) * (64 + product.columns) * 32
        return 8 * (product.columns / 2 + product.rows / 4) * 32

    found = {}
    values, terms = EPILOGUE_BYTES[path]
    for name, form in forms(strides, rows, step if path == "sm90a" else PROJECTED).items():
        multiplied = [(p, p.times * (p.multiplied or p.channels)) for p in form.products]
        copied = sum(2 * p.times * p.channels * (p.read + p.columns) for p in form.products)
        found[name] = {
            "multiply_adds": sum(n * p.rows * p.columns for p, n in multiplied) / form.pairs,
            "l2_bytes": copied / form.pairs + form.refined,
            "shared_bytes": sum(n / 16 * operand_bytes(p) for p, n in multiplied) / form.pairs + terms + values,
            "issue_slots": issued(instructions[f"{path} {rows} {step}"], path, rows, step, form),
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
        "instructions": cycles * count["issue_slots"] / device.slots,
    }


def instructions_of(file: str) -> Instructions:
    """Path, queries of a tile and channels of a step -> what machine_code.main_loop counts, of float16."""
    found = {}
    code = dumped("-sass", file)
    hopper = code.pop("90a", [])
    shared = code["80"] if "80" in code else next(iter(code.values()), [])  # an engine built for this machine alone has no other
    kernels = (("sm80", r"search_kernel\w*HalfOperandELi(\d)ELi(\d+)", shared), ("sm90a", r"HalfOperandELi(\d)()E", hopper))
    for path, name, functions in kernels:
        for text in functions:
            if kernel := re.search(name, text.splitlines()[0]):
                found[f"{path} {32 * int(kernel[1])} {kernel[2] or 64}"] = main_loop(text)
    return found


def model(engine: ModuleType, instructions: Instructions) -> list[dict[str, object]]:
    rows = []
    for device in DEVICES:
        engine.set_device(*device.limits)
        for form, count in counts(planned(engine, torch.device("cpu")), instructions).items():
            times = predicted(device, count)
            binds = max(times, key=times.__getitem__)
            rows.append(
                {"device": device.name, "form": form, **count, "milliseconds": times[binds], "binds": binds, "times": times}
            )
    return rows


def known(properties: Any) -> Device | None:
    """The device that has these properties, with its own multiprocessors and clock and its chip's rates; None: not in the table."""
    names = [SAME_CHIP.get(word, word) for word in re.split(r"[\s-]", properties.name)]
    for device in DEVICES:
        if device.name in names:
            shared_bytes, _, sm90a = device.limits  # a chip's, too
            limits = (shared_bytes, properties.multi_processor_count, sm90a)
            clock = getattr(properties, "clock_rate", 0) / 1e6 or device.gigahertz  # older torch does not tell it
            return replace(device, name=properties.name, limits=limits, gigahertz=clock)
    return None


def measured(engine: ModuleType, where: torch.device, repeats: int) -> dict[str, dict[str, Any]]:
    """Form that the features are made for -> the form that was taken, the share of pairs whose finest channels were multiplied, and
    what the search took: of its kernel alone where the profiler sees it, else of a replay or of a call, preparation of the query
    and ranking included."""
    calls: dict[str, Callable[[], torch.Tensor]] = {}
    found: dict[str, dict[str, Any]] = {}
    made = {"whole": (random(PAPER, 1, 1), random(PAPER, IMAGES, 2)), "projections": low_rank(PAPER, IMAGES)}
    for asked, sides in made.items():
        # Channels last is how features are stored after fit.
        query, gallery = ([level.to(where, memory_format=torch.channels_last) for level in side] for side in sides)
        prepared = prepare_gallery_cuda(gallery, 1, False, engine)
        search = partial(search_cuda, query, gallery, prepared, 1, None, 1, True, engine=engine)
        counters = dict(zip(COUNTERS, search()[2].tolist(), strict=True))
        pairs = IMAGES * (PAPER[0][1] * PAPER[0][2]) ** 2
        found[asked] = {"form": "whole" if counters["fine_pairs"] == pairs else "projections"}
        found[asked] |= {"refined": counters["fine_pairs"] / pairs, "uncertain_rows": counters["uncertain_rows"]}
        calls[asked] = lambda search=search: search()[1]
    for asked, times in measure(calls, repeats, where).items():
        kernels, _ = kernels_of(calls[asked], repeats, where)
        if seen := sum(microseconds for name, microseconds, _ in kernels if part_of(name) == "search"):
            times["kernel_ms"] = seen / repeats / 1e3
        by = next(name for name in ("kernel_ms", "graph_ms", "milliseconds") if name in times)
        found[asked] |= {"measured_ms": times[by], "measured_by": by, "call": times}
    return found


def compared(
    name: str, device: Device | None, count: dict[str, dict[str, float]], found: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """What was measured beside what is calculated for the form that was taken; None where the device is not known."""
    rows = []
    for asked, one in found.items():
        times = predicted(device, count[one["form"]]) if device else None
        slowest = max(times.values()) if times else None
        rows.append(
            {
                "device": name,
                "asked": asked,
                **one,
                "assumed": LEFT if one["form"] == "projections" else 1.0,
                "times": times,
                "binds": max(times, key=times.__getitem__) if times else None,
                "milliseconds": slowest,
                "measured / predicted": one["measured_ms"] / slowest if slowest else None,
            }
        )
    return rows


def compared_here(
    engine: ModuleType, where: torch.device, properties: Any, instructions: Instructions, repeats: int = 20
) -> dict[str, Any]:
    """What the device is, as torch tells, and what compared says of it."""
    device = known(properties)
    if device is None:
        print(f"{properties.name} is not in the table: measured without a prediction")
    plan = planned(engine, where)
    found = measured(engine, where, repeats)
    told = [name for name in dir(properties) if not name.startswith("_")]
    return {
        "properties": {name: value for name in told if isinstance(value := getattr(properties, name), int | str)},
        "path": plan["path"],
        "rows": compared(properties.name, device, counts(plan, instructions) if device else {}, found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--here", action="store_true", help="measure this machine's GPU, and calculate for no other")
    arguments = parser.parse_args()
    if cuobjdump() is None:
        parser.error("cuobjdump, of the CUDA toolkit, is not there")
    there_is_one = torch.cuda.is_available() and has_cuda_engine()
    if arguments.here and not there_is_one:
        parser.error("torch sees no CUDA device, or this build has no CUDA engine")
    instructions = instructions_of(compiled_engine().__file__)
    results: dict[str, Any] = {"images": IMAGES, "shapes": PAPER, "instructions": instructions}
    if not arguments.here:
        from emulated_engine import build

        with tempfile.TemporaryDirectory() as folder:
            results["rows"] = model(build(Path(folder)), instructions)
    if there_is_one:
        where = torch.device("cuda", torch.cuda.current_device())
        results["here"] = compared_here(compiled_engine(), where, torch.cuda.get_device_properties(where), instructions)
    for row in [*results.get("rows", []), *results.get("here", {}).get("rows", [])]:
        print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}))
    if arguments.output:
        write(arguments.output, results)


if __name__ == "__main__":
    main()
