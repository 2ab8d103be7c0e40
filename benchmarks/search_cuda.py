"""How fast is pyramid_knn on a GPU, beside the searches one would use instead?

fastspade is handed the pyramid as the network gives it and a gallery prepared once, as a fitted model has it ("unprepared"
prepares it in every call). Its rivals (rivals.py) are handed concatenated descriptors, and rank their candidates by exact
distances, because a wrong neighbour is no rival; of everyone the share of neighbours is told that are float64's.
Contenders take turns.

    python benchmarks/search_cuda.py --cases short                # K = 1 and 10
    python benchmarks/search_cuda.py --cases full --paths sm80 sm90a --out benchmarks/results/gpu_search_full.json
    python benchmarks/search_cuda.py --cases real                 # features of photographs (real_features.npz)
    python benchmarks/search_cuda.py --device cpu --tiny          # every path at tiny sizes, where there is no GPU
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import machine
import torch
from agreement import float64_shares
from features import REAL, SHAPES, STORED, Pyramid, load_features, make_features, with_background
from rivals import rivals
from timing import Contenders, matrix_peak, measure, peak_bytes, those_that_work

from fastspade import knn, pyramid_knn
from fastspade.errors import InputError
from fastspade.search import PreparedGallery, last_statistics, ops, reference
from fastspade.search.cuda import PATHS, plan_cuda

TINY = ((8, 6, 6), (16, 3, 3))


@dataclass(frozen=True)
class PyramidCase:
    """One search: of `batch` query images in `images` gallery images."""

    images: int
    kappa: int = 1
    batch: int = 1
    upsample: str = "bilinear"
    channels_last: bool = True  # how features are stored after fit: the exact ranking reads whole vectors
    host: bool = False  # the gallery in pinned host memory, streamed
    black: float = 0.0  # share of each image that is exactly 0
    compiled: bool = False  # torch.compile among the rivals: a minute
    rivals: bool = True

    def title(self, source: str, query: Pyramid) -> str:
        parts = [f"K={self.images} kappa={self.kappa} batch={self.batch} {self.upsample}", f"{source} features"]
        parts += ["channels last" if self.channels_last else "NCHW", *["gallery in host memory"] * self.host]
        parts += [f"{self.black:.0%} black background"] * bool(self.black)
        return "pyramid_knn " + ", ".join(parts) + " " + " ".join(str(tuple(level.shape[1:])) for level in query)


CASES = {
    "short": [PyramidCase(1), PyramidCase(10), PyramidCase(10, upsample="nearest", rivals=False)],
    "full": [
        PyramidCase(50, compiled=True),
        PyramidCase(50, kappa=5),
        PyramidCase(50, batch=16),
        PyramidCase(50, black=0.3),
        PyramidCase(50, kappa=50, black=0.3, rivals=False),
        PyramidCase(50, channels_last=False, rivals=False),
        PyramidCase(1, rivals=False),
        PyramidCase(10),
        PyramidCase(10, batch=16, rivals=False),
        PyramidCase(200),
        PyramidCase(200, host=True),
        PyramidCase(50, upsample="nearest", rivals=False),
    ],
    "real": [
        PyramidCase(20),
        PyramidCase(20, kappa=5),
        PyramidCase(20, kappa=50, rivals=False),
        PyramidCase(20, black=0.3),
        PyramidCase(1, rivals=False),
    ],
}
# queries, vectors, dimension, kappa
VECTORS = {
    "short": [(10_000, 10_000, 128, 1)],
    "full": [(10_000, 100_000, 128, 1), (10_000, 100_000, 512, 5), (3136, 156_800, 1792, 1), (1, 1_000_000, 128, 1)],
    "real": [],
}


@contextmanager
def path(name: str) -> Iterator[None]:
    """The search kernel that FASTSPADE_CUDA_PATH asks for."""
    before = os.environ.get("FASTSPADE_CUDA_PATH", "")
    os.environ["FASTSPADE_CUDA_PATH"] = name
    try:
        yield
    finally:
        os.environ["FASTSPADE_CUDA_PATH"] = before


def on_path(name: str, call: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    def asked() -> torch.Tensor:
        with path(name):
            return call()

    return asked


class Benchmark:
    """The device, the paths to measure, and what is found: written after every case, so that a later failure loses nothing."""

    def __init__(self, device: torch.device, paths: list[str], repeats: int, out: str | None) -> None:
        self.device, self.paths, self.repeats, self.out = device, paths, repeats, out
        size = 8192 if device.type == "cuda" else 64
        self.peaks = {
            str(dtype).removeprefix("torch."): matrix_peak(dtype, device, size) for dtype in (torch.float16, torch.bfloat16)
        }
        self.cases: list[dict[str, object]] = []
        print("matrix peak, TFLOP/s:", {name: round(value, 1) for name, value in self.peaks.items()})

    def keep(
        self,
        title: str,
        contenders: Contenders,
        shares: Callable[[Contenders], dict[str, float]],
        extra: dict[str, dict[str, float]],
        graphs: bool = True,
        **more: object,
    ) -> dict[str, dict[str, float]]:
        contenders = those_that_work(contenders, self.device)
        found = measure(contenders, self.repeats, self.device, graphs)
        right = shares(contenders)
        for name, call in contenders.items():
            found[name] |= {
                "share_of_float64": right[name],
                "peak_mib": peak_bytes(call, self.device) / 2**20,
                **extra.get(name, {}),
            }
            if "work" in found[name]:  # multiply-adds, twice
                tflops = found[name].pop("work") / found[name]["milliseconds"] / 1e9
                found[name] |= {"tflops": tflops, "share_of_peak": tflops / self.peaks["float16"]}
        own = min(
            (result["milliseconds"] for name, result in found.items() if name.startswith("fastspade")), default=float("nan")
        )
        print(f"\n{title}")
        for name, result in sorted(found.items(), key=lambda item: item[1]["milliseconds"]):
            more_text = "  ".join(f"{key} {value:.4g}" for key, value in result.items() if key != "milliseconds")
            print(f"  {name:40s} {result['milliseconds']:10.3f} ms {result['milliseconds'] / own:7.2f}x  {more_text}")
        self.cases.append({"case": title, "results": found, **more})
        if self.out:
            machine.write(self.out, {"matrix_peak_tflops": self.peaks, "cases": self.cases})
        return found

    def pyramid(self, case: PyramidCase, sides: tuple[Pyramid, Pyramid], source: str) -> None:
        query, gallery = (place(levels, case, self.device, gallery=side) for side, levels in enumerate(sides))
        rows = case.batch * query[0].shape[2] * query[0].shape[3]

        def search(stored: Pyramid | PreparedGallery, precision: str = "exact") -> torch.Tensor:
            return pyramid_knn(query, stored, case.kappa, upsample=case.upsample, precision=precision)[1].reshape(
                rows, case.kappa
            )

        prepared = gallery if case.host else PreparedGallery(gallery, upsample=case.upsample)
        pairs = rows * case.images
        work = 2.0 * pairs * sum(level.shape[1] * level.shape[2] * level.shape[3] for level in gallery)  # padding left out
        contenders: Contenders = {}
        extra: dict[str, dict[str, float]] = {}
        plans = {}
        for name in self.paths:
            exact = f"fastspade {name}"
            try:
                on_path(name, lambda: search(prepared))()
            except InputError as error:  # FASTSPADE_CUDA_PATH asks for what these shapes cannot have
                print(f"{exact} is left out: {error}")
                continue
            counted = last_statistics()
            contenders[exact] = on_path(name, lambda: search(prepared))
            contenders[f"{exact}, fast"] = on_path(name, lambda: search(prepared, "fast"))
            if not case.host:
                contenders[f"{exact}, unprepared"] = on_path(name, lambda: search(gallery))
            extra[exact] = {
                "work": work,
                "uncertain_rows": counted.uncertain_rows,
                "exact_pairs_per_row": counted.exact_pairs / rows,
            }
            if self.device.type == "cuda" and not case.host:
                with path(name):
                    plans[name] = plan_cuda(query, gallery, case.kappa, case.images, {"nearest": 0, "bilinear": 1}[case.upsample])
        if case.rivals:
            flat = [flattened(side, case.upsample, case.host and i == 1) for i, side in enumerate((query, gallery))]
            contenders |= rivals(*flat, case.kappa, case.compiled)
        shares = lambda found: float64_shares(found, query, gallery, case.kappa, case.upsample)
        title = case.title(source, query)
        found = self.keep(title, contenders, shares, extra, graphs=not case.host, plans=plans)
        if case == PyramidCase(50, compiled=True) and self.device.type == "cuda":
            self.cases[-1]["targets"] = judge(found)

    def vectors(self, queries: int, vectors: int, dimension: int, kappa: int) -> None:
        query, gallery = (torch.randn(n, dimension, device=self.device) for n in (queries, vectors))
        # knn prepares its gallery in every call; a gallery searched again and again is prepared once.
        sides = [[matrix.t()[None, :, :, None]] for matrix in (query, gallery)]
        prepared = ops.prepare_gallery(sides[1], "nearest", "float16")
        contenders: Contenders = {}
        for name in self.paths:
            contenders[f"fastspade.knn {name}"] = on_path(name, lambda: knn(query, gallery, kappa)[1])
            call = lambda: ops.search(*sides, prepared, kappa, None, "nearest", "exact", "float16")[1]
            contenders[f"fastspade {name}, prepared"] = on_path(name, call)
        extra = {name: {"work": 2.0 * queries * vectors * dimension} for name in contenders}
        contenders |= rivals(query, gallery, kappa, False)
        shares = lambda found: float64_shares(found, *sides, kappa, "nearest")
        self.keep(f"knn {queries} in {vectors} of {dimension}, kappa={kappa}", contenders, shares, extra)


def place(levels: Pyramid, case: PyramidCase, device: torch.device, *, gallery: int) -> Pyramid:
    """The case's images, as float32, where and how it wants them."""
    format_ = torch.channels_last if case.channels_last else torch.contiguous_format
    wanted = case.images if gallery else case.batch
    placed = [level[torch.arange(wanted) % len(level)].float().contiguous(memory_format=format_) for level in levels]
    if gallery and case.host:
        return [level.pin_memory() for level in placed] if device.type == "cuda" else placed
    return [level.to(device) for level in placed]


def flattened(levels: Pyramid, upsample: str, on_host: bool) -> torch.Tensor:
    """Descriptors of all pixels, float32, image by image: (images * pixels, channels)."""
    images = [reference.descriptors([level[i : i + 1] for level in levels], upsample)[0].float() for i in range(len(levels[0]))]
    return torch.cat([image.cpu() for image in images] if on_host else images)


def judge(found: dict[str, dict[str, float]]) -> dict[str, bool]:
    """What K = 50 and kappa = 1 should take on an H100 with the paper's shapes; rivals only where they ran."""
    targets = {}
    for name, most in (("sm80", 1.0), ("sm90a", 0.6)):
        if (own := found.get(f"fastspade {name}")) is not None:
            targets |= {
                f"{name}: at most {most} ms": own["milliseconds"] <= most,
                f"{name}: at most 256 MiB": own["peak_mib"] <= 256,
            }
    best = min(result["milliseconds"] for name, result in found.items() if name.startswith("fastspade"))
    others = {name: result for name, result in found.items() if not name.startswith("fastspade")}
    if "torch.cdist + topk" in others:
        targets["40 times torch.cdist + topk"] = others["torch.cdist + topk"]["milliseconds"] >= 40 * best
    exact = [result["milliseconds"] for result in others.values() if result["share_of_float64"] == 1]
    if exact:
        targets["faster than every rival without a wrong neighbour"] = min(exact) > best
    for target, met in targets.items():
        print(f"  {'pass' if met else 'FAIL'}  {target}")
    return targets


def read_features(arguments: argparse.Namespace, cases: list[PyramidCase]) -> tuple[tuple[Pyramid, Pyramid], str]:
    """Features for the largest case and what they are."""
    if arguments.tiny:
        return tuple([torch.randn(n, *shape) for shape in TINY] for n in (2, 3)), "random"
    if arguments.cases == "real" and arguments.data == "random":
        return load_features(STORED), "real"
    images = max(case.images for case in cases)
    query, gallery = make_features(arguments.data, arguments.shapes, max(images, 16))
    return ([level[:16] for level in gallery], gallery) if max(
        case.batch for case in cases
    ) > 1 and arguments.data == "random" else (query, gallery), arguments.data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", choices=list(CASES), default="short")
    parser.add_argument("--shapes", choices=list(SHAPES), default="wide_resnet50_2")
    parser.add_argument("--data", choices=("random", *REAL), default="random")
    parser.add_argument("--paths", nargs="+", choices=list(PATHS), default=[os.environ.get("FASTSPADE_CUDA_PATH") or "auto"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="every kind of case, very small")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks/search_cuda.py needs a CUDA device, and torch sees none; --device cpu --tiny tries its paths"
        )
    torch.manual_seed(0)
    cases, vectors = CASES[arguments.cases], VECTORS[arguments.cases]
    if arguments.tiny:
        cases = [replace(case, images=3, kappa=min(case.kappa, 2), batch=min(case.batch, 2)) for case in cases]
        vectors, arguments.repeats = [(20, 300, 8, 1)], 1
    sides, source = read_features(arguments, cases)
    benchmark = Benchmark(device, arguments.paths, arguments.repeats, arguments.out)
    for case in cases:
        shown = with_background(tuple([level.clone() for level in side] for side in sides), case.black) if case.black else sides
        benchmark.pyramid(case, shown, source)
    for shape in vectors:
        benchmark.vectors(*shape)


if __name__ == "__main__":
    main()
