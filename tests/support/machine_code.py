"""What cuobjdump says of a built engine, and the instructions of the search kernels' main loops counted in it, which
benchmarks/cuda_model.py weighs.

Loops are found by dominators. The loop that holds the products is the steps'; the one around it is the tiles'. What a tile does
beside its steps is sorted by what it holds: the cold path of survivors has atomic additions, coarse tiles are stored, and loops of
shared loads and fused multiply-adds interpolate coarse values.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\d+ )?\s*([A-Z0-9_.]+)([^;]*);")
JUMP = re.compile(r"0x([0-9a-f]+)\s*$")
CLASSES = {
    "matrix": ("HMMA", "HGMMA"),
    "shared": ("LDS", "STS", "LDSM", "LDGSTS", "UTMALDG"),
    "float": ("FADD", "FFMA", "FMUL", "FSETP", "FSEL", "FMNMX", "HADD2", "HFMA2", "F2FP", "F2F"),
}
PRODUCTS, CONTROL = ("HMMA", "HGMMA"), ("BRA", "CALL", "BRX")


@cache
def cuobjdump() -> str | None:
    """The program, of the CUDA toolkit or of triton, which torch's CUDA build depends on."""
    if (found := shutil.which("cuobjdump")) or not (triton := importlib.util.find_spec("triton")):
        return found
    return next(map(str, Path(triton.origin).parent.rglob("nvidia/bin/cuobjdump")), None)


@cache
def dumped(what: str, file: str) -> dict[str, list[str]]:
    """Architecture -> what cuobjdump says of a file's code for it, a function at a time."""
    text = subprocess.run([cuobjdump(), what, file], capture_output=True, text=True, check=True).stdout
    parts = [part for part in text.split("Fatbin ")[1:] if "Function" in part]
    return {re.search(r"arch = sm_(\w+)", part)[1]: re.split(r"Function\s*:? ", part)[1:] for part in parts}


@dataclass
class Block:
    """Instructions that follow one another, and where they lead."""

    names: list[str] = field(default_factory=list)
    next: list[int] = field(default_factory=list)

    def has(self, *names: str) -> bool:
        return any(name.split(".")[0] in names for name in self.names)


def blocks(text: str) -> dict[int, Block]:
    """Address -> basic block."""
    lines = [(int(m[1], 16), bool(m[2]), m[3], m[4]) for m in LINE.finditer(text)]
    jumps = {at: int(m[1], 16) for at, _, name, rest in lines if name.split(".")[0] in CONTROL and (m := JUMP.search(rest))}
    starts = {lines[0][0], *jumps.values()}
    found: dict[int, Block] = {}
    last: Block | None = None
    for at, conditional, name, rest in lines:
        if at in starts or last is None:
            if last is not None:
                last.next.append(at)
            last = found[at] = Block()
        if name != "NOP":
            last.names.append(name)
        ends = name.split(".")[0] in ("EXIT", "RET", "BRX")
        if at in jumps or ends:
            if at in jumps:
                last.next.append(jumps[at])
            falls = conditional or name.startswith("CALL") or ".DIV" in name or rest.strip().startswith(("P", "!P", "UP", "!UP"))
            starts.add(at + 16)
            if not falls:
                last = None
    reached, todo = set(), [lines[0][0]]
    while todo:
        if (at := todo.pop()) in found and at not in reached:
            reached.add(at)
            todo += found[at].next
    return {at: block for at, block in found.items() if at in reached}


def dominators(graph: dict[int, Block]) -> dict[int, set[int]]:
    first = min(graph)
    before: dict[int, set[int]] = {at: set() for at in graph}
    for at, block in graph.items():
        for to in block.next:
            if to in before:
                before[to].add(at)
    found = {at: {at} if at == first else set(graph) for at in graph}
    changed = True
    while changed:
        changed = False
        for at in sorted(graph):
            if at == first:
                continue
            new = {at} | (set.intersection(*(found[one] for one in before[at])) if before[at] else set())
            changed |= new != found[at]
            found[at] = new
    return found


def loops(graph: dict[int, Block], dominated: dict[int, set[int]]) -> dict[int, tuple[set[int], set[int]]]:
    """Header -> blocks of its loop, and those that run whenever the loop goes on."""
    before: dict[int, list[int]] = {at: [] for at in graph}
    for at, block in graph.items():
        for to in block.next:
            if to in before:
                before[to].append(at)
    found: dict[int, tuple[set[int], set[int]]] = {}
    for at, block in graph.items():
        for header in block.next:
            if header not in dominated[at] or header not in graph:
                continue
            body, todo = {header}, [at]
            while todo:
                one = todo.pop()
                if one not in body:
                    body.add(one)
                    todo += before[one]
            old, always = found.get(header, (set(), dominated[at]))
            found[header] = (old | body, always & dominated[at] & (old | body))
    return found


def counted(names: Iterator[str]) -> dict[str, int]:
    kinds = {name: kind for kind, members in CLASSES.items() for name in members}
    return dict(Counter(kinds.get(name.split(".")[0], "other") for name in names))


def main_loop(text: str) -> dict[str, dict[str, int]]:
    """Part of a search kernel's main loop -> instructions of each class. "step": each step, beside "products"; "tile": once a
    finest tile; "column": its columns' terms, by some of the threads; "coarse": storing a coarse one; "taps": interpolation, once a
    coarse level; "rows": and once a coarse row; "mixed": where a row is added to all the pixels of a thread; "rare": once an image.
    Survivors' path is left out."""
    graph = blocks(text)
    dominated = dominators(graph)
    found = loops(graph, dominated)
    products = {at for at, block in graph.items() if block.has(*PRODUCTS)}
    steps, always = min((one for one in found.values() if one[0] & products), key=lambda one: len(one[0]))
    tiles, _ = min((one for one in found.values() if one[0] > steps), key=lambda one: len(one[0]))
    inner = sorted((one for one in found.values() if one[0] < tiles and not one[0] & products), key=lambda one: len(one[0]))

    def holds(loop: set[int], *names: str) -> bool:
        return any(graph[at].has(*names) for at in loop)

    parts: dict[str, list[str]] = {}
    for at in tiles:
        block, around = graph[at], [one for one in inner if at in one[0]]
        if any(holds(one[0], "ATOMS") for one in around):
            continue
        taps = [one for one in around if holds(one[0], "LDS") and holds(one[0], "FFMA")]
        if at in products:
            part = "products"
        elif at in steps and (at in always or block.has("LDGSTS")):
            part = "step"
        elif at in steps:
            part = "column" if not around or holds(around[0][0], "STS") else "rare"
        elif len(taps) == 1:
            part = "taps"
        elif taps:
            part = "rows" if at in taps[0][1] else "mixed"
        elif around:
            part = "rare"
        else:
            part = "coarse" if block.has("F2FP") and block.has("STS") else "tile"
        parts.setdefault(part, []).extend(block.names)
    return {part: counted(names) for part, names in sorted(parts.items())}
