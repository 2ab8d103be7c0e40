"""How long calls take on a GPU: alone, back to back, replayed from a CUDA graph, and on the host before they return."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

NO_GRAPH = ("torch.compile", "faiss", "cuvs", "KeOps")  # they have graphs of their own, or wait for the device

Contenders = dict[str, Callable[[], torch.Tensor]]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def those_that_work(contenders: Contenders, device: torch.device) -> Contenders:
    """A library that is installed but fails here, or whose memory does not suffice, costs its own line alone. Each has been
    called twice afterwards: compiled, tuned, and its memory taken."""
    found: Contenders = {}
    for name, call in contenders.items():
        try:
            call()
            call()
            synchronize(device)
            found[name] = call
        except Exception as error:  # every library fails in its own way
            print(f"{name} failed and is left out: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return found


def measure(contenders: Contenders, repeats: int, device: torch.device, graphs: bool = True) -> dict[str, dict[str, float]]:
    """Of each: "milliseconds" of a call alone and "host_us" until it returns (fastspade's returns when its answer is there: what
    its host does alone is in profile_cuda.py's table), medians, contenders taking turns;
    "back_to_back_ms" per call of a queue; "graph_ms" per replay, where a CUDA graph can hold the call. At most `repeats` each:
    fewer of those that take long, but at least 3."""
    times = {
        name: max(min(3, repeats), min(repeats, int(500 / max(_timed(call, 1, device), 1e-3))))
        for name, call in contenders.items()
    }
    alone: dict[str, list[float]] = {name: [] for name in contenders}
    host: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(max(times.values(), default=0)):
        for name, call in contenders.items():
            if turn < times[name]:
                alone[name].append(_timed(call, 1, device, host[name]))
    found = {}
    for name, call in contenders.items():
        found[name] = {
            "milliseconds": statistics.median(alone[name]),
            "host_us": 1e6 * statistics.median(host[name]),
            "back_to_back_ms": _timed(call, times[name], device) / times[name],
        }
        if device.type == "cuda" and graphs and not name.startswith(NO_GRAPH) and (replay := captured(call, name)) is not None:
            replay()
            found[name]["graph_ms"] = _timed(replay, times[name], device) / times[name]
    return found


def _timed(call: Callable[[], object], times: int, device: torch.device, host: list[float] | None = None) -> float:
    """Milliseconds from the first call's first kernel to the last one's end; adds to `host` the seconds until they return."""
    synchronize(device)
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
    start = time.perf_counter()
    for _ in range(times):
        call()
    seconds = time.perf_counter() - start
    if host is not None:
        host.append(seconds)
    if device.type != "cuda":
        return 1e3 * seconds
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def captured(call: Callable[[], object], name: str) -> Callable[[], object] | None:
    """A replay of the call from a CUDA graph; None, and a word, where it waits for the device or allocates behind torch."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except Exception as error:
        print(f"{name}: no CUDA graph: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        torch.cuda.synchronize()
        return None
    return graph.replay


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Device memory that a call takes at its highest, beyond what was there; 0 on the CPU, where nobody counts."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def matrix_peak(dtype: torch.dtype, device: torch.device, size: int) -> float:
    """TFLOP/s of a large square matrix product: what this device's matrix units reach in practice."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / (_timed(lambda: a @ b, 20, device) / 20) / 1e9
