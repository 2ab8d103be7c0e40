"""How does the CPU search's time grow with gallery images, pixels, threads and neighbours?

fastspade, faiss.knn and torch.cdist + topk do the same exact search on real features (efficientnet_lite0, bilinear); the
last two are handed finished concatenated descriptors, whose making is not counted. Contenders take turns at each point,
the best of --repeats runs is kept, as the machine may have other work, and a contender leaves a curve where its next
point would take longer than --budget seconds. Exponents
are least-squares slopes of log time over log size.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json --plot docs/scaling.png
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable

import machine
import numpy as np
import torch
from features import make_features, photographs
from PIL import Image
from search_cpu import torch_cdist

from fastspade import pyramid_knn
from fastspade.backbones import load_backbone
from fastspade.search import reference

GALLERIES = (1, 2, 5, 10, 25, 50, 100, 200, 400)
SIDES = (28, 40, 56, 80, 112, 160, 224, 256)  # of the finest level; images are four times as large
NEIGHBOURS = (1, 4, 16, 64)

Pyramid = list[torch.Tensor]
Contenders = dict[str, Callable[[], object]]


def flatten(levels: Pyramid) -> torch.Tensor:
    """(images * pixels, channels) float32 descriptors, an image at a time to bound the float64 intermediate."""
    return torch.cat(
        [reference.descriptors([level[i : i + 1] for level in levels], "bilinear")[0].float() for i in range(len(levels[0]))]
    )


def contenders(query: Pyramid, gallery: Pyramid, kappa: int, threads: int, wanted: set[str]) -> Contenders:
    found: Contenders = {"fastspade": lambda: pyramid_knn(query, gallery, kappa)}
    if wanted - {"fastspade"}:
        import faiss

        flat_query, flat_gallery = flatten(query), flatten(gallery)
        faiss.omp_set_num_threads(threads)
        found["faiss.knn"] = lambda: faiss.knn(flat_query.numpy(), flat_gallery.numpy(), kappa)
        found["torch.cdist + topk"] = lambda: torch_cdist(flat_query, flat_gallery, kappa)
    return {name: run for name, run in found.items() if name in wanted}


class Curves:
    """The points of one axis: contender -> [(size, best seconds)]."""

    def __init__(self, axis: str, budget: float, repeats: int, work: float) -> None:
        self.axis, self.budget, self.repeats, self.work = (
            axis,
            budget,
            repeats,
            work,
        )  # work: the power of size a search without pruning takes
        self.points: dict[str, list[tuple[float, float]]] = {
            name: [] for name in ("fastspade", "faiss.knn", "torch.cdist + topk")
        }

    def wanted(self, size: float) -> set[str]:
        def fits(points: list[tuple[float, float]]) -> bool:
            return not points or points[-1][1] * (size / points[-1][0]) ** self.work <= self.budget

        # fastspade is measured to the end: where it goes is the question.
        return {name for name, points in self.points.items() if name == "fastspade" or fits(points)}

    def measure(self, size: float, runs: Contenders) -> None:
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(self.repeats):
            for name, run in runs.items():
                if sum(times[name]) > self.budget:
                    continue
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
        for name, seconds in times.items():
            self.points[name].append((size, min(seconds)))
        print(f"{self.axis:8s} {size:8g}  " + "  ".join(f"{name} {self.points[name][-1][1]:.4f} s" for name in runs), flush=True)

    def exponents(self) -> dict[str, float]:
        def slope(points: list[tuple[float, float]]) -> float:
            sizes, seconds = np.log(np.array(points)).T
            return round(float(np.polyfit(sizes, seconds, 1)[0]), 3)

        return {name: slope(points) for name, points in self.points.items() if len(points) > 1}


def sized_features(side: int) -> tuple[Pyramid, Pyramid]:
    """One query and one gallery image of the same object at 4 * side pixels."""
    images = [Image.fromarray(p).resize((4 * side, 4 * side), Image.Resampling.BICUBIC) for p in photographs("aligned", 2, 0)]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255
    levels = [level.contiguous() for level in load_backbone("efficientnet_lite0")(pixels)[1]]
    return [level[:1] for level in levels], [level[1:] for level in levels]


def draw(curves: dict[str, Curves], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    titles = {"images": "gallery images", "pixels": "pixels per image", "threads": "threads", "kappa": "neighbours (kappa)"}
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.8), sharey=False)
    for plot, (axis, curve) in zip(axes, curves.items(), strict=True):
        exponents = curve.exponents()
        for name, points in curve.points.items():
            if points:
                label = f"{name}: exponent {exponents[name]:.2f}" if name in exponents else name
                plot.plot(*zip(*points, strict=True), "o-", markersize=4, label=label)
        plot.set(xscale="log", yscale="log", xlabel=titles[axis], ylabel="seconds")
        plot.grid(True, which="major", alpha=0.3)
        plot.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--budget", type=float, default=12.0, help="seconds that a point may take per contender")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--galleries", type=int, nargs="+", default=GALLERIES)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--plot", help="picture to draw")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    curves = {
        axis: Curves(axis, arguments.budget, arguments.repeats, work)
        for axis, work in (("images", 1.0), ("pixels", 2.0), ("threads", -1.0), ("kappa", 0.0))
    }
    query, gallery = make_features("brick", "efficientnet_lite0", max(arguments.galleries))
    for k in arguments.galleries:
        some = [level[:k] for level in gallery]
        curves["images"].measure(k, contenders(query, some, 1, arguments.threads, curves["images"].wanted(k)))
    few = [level[:10] for level in gallery]
    for kappa in NEIGHBOURS:
        curves["kappa"].measure(kappa, contenders(query, few, kappa, arguments.threads, curves["kappa"].wanted(kappa)))
    thread_counts = sorted({2**i for i in range(int(math.log2(arguments.threads)) + 1)} | {arguments.threads})
    for threads in thread_counts:
        torch.set_num_threads(threads)
        curves["threads"].measure(threads, contenders(query, few, 1, threads, curves["threads"].wanted(threads)))
    del gallery
    for side in arguments.sides:
        query, other = sized_features(side)
        pixels = side * side
        curves["pixels"].measure(pixels, contenders(query, other, 1, arguments.threads, curves["pixels"].wanted(pixels)))
    for axis, curve in curves.items():
        print(axis, curve.exponents())
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name not in ("json", "plot")}
        results = {axis: {"points": curve.points, "exponents": curve.exponents()} for axis, curve in curves.items()}
        machine.write(arguments.json, {"settings": settings, "curves": results})
    if arguments.plot:
        draw(curves, arguments.plot)


if __name__ == "__main__":
    main()
