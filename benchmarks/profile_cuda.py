"""Where a search's time goes on a GPU: preparation, search, finish and host apart, by torch.profiler.

FASTSPADE_CUDA_PATH=sm90a python benchmarks/profile_cuda.py
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable

import machine
import torch
from features import SHAPES, make_features
from torch.profiler import ProfilerActivity, profile

from fastspade import pyramid_knn
from fastspade.search import PreparedGallery

# A part and the kernels that it has, the first that matches: csrc/cuda/*.cuh.
PARTS = {
    "search": r"search_(sm90_)?kernel",
    "finish": r"(finish|redo|repeat)_kernel",
    "preparation": r"(centre|largest|scale|operand|direction|orthonormal|project|told|terms|schedule|equal)_kernel|[Mm]emset",
}


def part_of(kernel: str) -> str:
    return next((part for part, pattern in PARTS.items() if re.search(pattern, kernel)), "other")


def table(kernels: Iterable[tuple[str, float, int]], host_us: float, calls: int) -> list[str]:
    """Lines: each part's microseconds per call, its kernels below it. kernels: name, microseconds in all, launches in all."""
    parts: dict[str, list[tuple[str, float, int]]] = {part: [] for part in ("preparation", "search", "finish", "other")}
    for kernel in kernels:
        parts[part_of(kernel[0])].append(kernel)
    lines = [f"{'':58s} {'us per call':>12s} {'launches':>9s}"]
    for part, found in parts.items():
        lines.append(
            f"{part:58s} {sum(time for _, time, _ in found) / calls:12.1f} {sum(count for *_, count in found) / calls:9.1f}"
        )
        for name, time, count in sorted(found, key=lambda kernel: -kernel[1]):
            lines.append(f"    {name[:54]:54s} {time / calls:12.1f} {count / calls:9.1f}")
    return [*lines, f"{'host, without waiting for the answer':58s} {host_us / calls:12.1f}"]


def kernels_of(call: Callable[[], object], calls: int, device: torch.device) -> tuple[list[tuple[str, float, int]], float]:
    """Kernels as `table` takes them, and the host's microseconds, of so many calls after a few."""
    on_gpu = device.type == "cuda"
    for _ in range(3):
        call()
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as session:
        for _ in range(calls):
            with torch.profiler.record_function("one search"):
                call()
        if on_gpu:
            torch.cuda.synchronize()
    events = session.key_averages()
    host = sum(event.cpu_time_total for event in events if event.key == "one search")
    host -= sum(event.cpu_time_total for event in events if event.key == "cudaStreamSynchronize")  # waiting for the answer
    # Kernels alone: what the host did is an event of the CPU, and its annotation has a copy on the device.
    kernels = [
        (event.key, event.self_device_time_total, event.count)
        for event in events
        if event.self_device_time_total > 0 and event.self_cpu_time_total == 0 and event.key != "one search"
    ]
    return kernels, host


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=list(SHAPES), default="wide_resnet50_2")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--once", action="store_true", help="two searches and nothing else, for ncu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    # Channels last is how the features are stored after fit: the exact ranking reads whole vectors.
    query, gallery = (
        [level.to(device).contiguous(memory_format=torch.channels_last) for level in side]
        for side in make_features("random", arguments.shapes, arguments.images)
    )
    prepared = PreparedGallery(gallery)
    if arguments.once:
        for _ in range(2):
            pyramid_knn(query, prepared, 1)
        torch.cuda.synchronize()
        return
    print(machine.describe())
    for title, stored in (("prepared gallery", prepared), ("gallery prepared in each call", gallery)):
        print(f"\n{title}, K={arguments.images}, kappa=1, {os.environ.get('FASTSPADE_CUDA_PATH') or 'auto'}")
        kernels, host_us = kernels_of(lambda stored=stored: pyramid_knn(query, stored, 1), arguments.calls, device)
        print("\n".join(table(kernels, host_us, arguments.calls)))


if __name__ == "__main__":
    main()
