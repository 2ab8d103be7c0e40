"""How fast is knn on plain vectors on the CPU, beside faiss.knn?

Random float32 vectors, one neighbour, squared L2. Both take turns within each repeat; medians and their ratio are shown.
Shown too: how many of each one's nearest neighbours are those of float64 distances, on vectors far from the origin (mean
1000, deviation 1), where an expanded form |q|^2 + |g|^2 - 2 q.g would lose its digits (64 channels: faiss computes these
directly).

    python benchmarks/knn_cpu.py [--json benchmarks/results/knn_cpu.json]     (needs ".[bench]")
"""

from __future__ import annotations

import argparse
import statistics
import time

import faiss
import machine
import torch

from fastspade import knn

SHAPES = [(1000, 100_000, d) for d in (64, 128, 256, 512, 1024, 2048)] + [(10_000, 10_000, 128), (1, 1_000_000, 128)]


def compare(queries: int, gallery: int, channels: int, repeats: int) -> dict[str, float | list[int]]:
    generator = torch.Generator().manual_seed(0)
    q, g = torch.randn(queries, channels, generator=generator), torch.randn(gallery, channels, generator=generator)
    seconds: dict[str, list[float]] = {"fastspade": [], "faiss.knn": []}
    for _ in range(repeats):
        start = time.perf_counter()
        knn(q, g, 1)
        middle = time.perf_counter()
        faiss.knn(q.numpy(), g.numpy(), 1)
        seconds["fastspade"].append(middle - start)
        seconds["faiss.knn"].append(time.perf_counter() - middle)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"shape": [queries, gallery, channels], **medians, "ratio": medians["faiss.knn"] / medians["fastspade"]}


def exactness() -> dict[str, float]:
    generator = torch.Generator().manual_seed(1)
    q, g = (1000 + torch.randn(n, 64, generator=generator) for n in (500, 5000))
    wanted = torch.cdist(q.double(), g.double(), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    found = {"fastspade": knn(q, g, 1)[1][:, 0], "faiss.knn": torch.from_numpy(faiss.knn(q.numpy(), g.numpy(), 1)[1][:, 0])}
    return {name: (places == wanted).double().mean().item() for name, places in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="file to write the figures to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    knn(torch.zeros(2, 2), torch.zeros(2, 2), 1)
    rows = []
    for shape in SHAPES:
        rows.append(compare(*shape, arguments.repeats))
        print(
            "queries {}, gallery {}, channels {}:".format(*shape),
            f"{rows[-1]['fastspade']:.4f} s, faiss.knn {rows[-1]['ratio']:.2f} x",
            flush=True,
        )
    right = exactness()
    print("nearest neighbours that are right far from the origin:", right)
    if arguments.json:
        machine.write(
            arguments.json,
            {"threads": arguments.threads, "repeats": arguments.repeats, "rows": rows, "right_far_from_the_origin": right},
        )


if __name__ == "__main__":
    main()
