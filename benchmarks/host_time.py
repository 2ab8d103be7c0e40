"""What a CUDA search costs the host: the time of a call against the emulated engine with its kernels left out.

    python benchmarks/host_time.py [--output benchmarks/results/host_time.json]

No GPU is needed. A launch costs a few microseconds more on a real device; everything else is what a search does there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from emulated_engine import build

from fastspade.search.cuda import gallery_bytes_cuda, plan_cuda, search_cuda
from fastspade.search.validation import check_answer

PAPER = ((256, 56, 56), (512, 28, 28), (1024, 14, 14))
CALLS = 2000


def microseconds(call) -> float:
    """The median of many calls, after a few that nobody times."""
    for _ in range(50):
        call()
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        engine = build(Path(folder))
        for name, device in (("sm80", (166912, 108, False)), ("sm90a", (232448, 132, True))):
            engine.set_device(*device)
            engine.set_dry(True)
            query, gallery = ([torch.empty(1).expand(n, *level) for level in PAPER] for n in (1, 50))
            prepared = torch.empty(gallery_bytes_cuda(PAPER, 50, torch.device("cpu"), 1, engine=engine), dtype=torch.uint8)
            index = torch.arange(50)[None]
            distances, indices = torch.zeros(56 * 56, 1), torch.zeros(56 * 56, 1, dtype=torch.int64)
            figures[name] = {
                "call": microseconds(lambda: search_cuda(query, gallery, prepared, 1, None, 1, True, engine=engine, check=False)),
                "call_with_gallery_index": microseconds(
                    lambda: search_cuda(query, gallery, prepared, 1, index, 1, True, engine=engine, check=False)
                ),
                # The launch and the reading of one sum; the wait for the search is not the host's work.
                "check": microseconds(lambda: check_answer(distances, indices, query, gallery, None)),
                "plan": microseconds(lambda: plan_cuda(query, gallery, 1, 50, 1, engine=engine)),
            }
    print(json.dumps(figures, indent=2))
    if output:
        write(output, {"microseconds": figures, "calls": CALLS})


if __name__ == "__main__":
    main()
