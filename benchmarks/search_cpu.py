"""How fast is pyramid_knn on the CPU, beside the libraries one would use instead?

Every contender gets the same pixels. fastspade is handed the pyramid as the network gives it; the others must be handed
concatenated descriptors, so interpolation and concatenation are done for them beforehand and are not counted.
Contenders take turns within each repeat, so that a change of the machine's speed meets all of them; medians are shown.

    python benchmarks/search_cpu.py                          # Wide-ResNet50-2 shapes, K=10, random features, nearest
    python benchmarks/search_cpu.py --k 50 --upsample bilinear --data aligned --json benchmarks/results/aligned.json
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

import machine
import torch
from features import REAL, SHAPES, make_features
from tqdm import tqdm

from fastspade import pyramid_knn
from fastspade.search import last_statistics, reference


def torch_cdist(query: torch.Tensor, gallery: torch.Tensor, kappa: int, chunk: int = 16384):
    """The naive baseline: torch.cdist and topk, a chunk of the gallery at a time so that the matrix fits in memory."""
    best_distances, best_indices = [], []
    for start in range(0, len(gallery), chunk):
        distances, indices = torch.cdist(query, gallery[start : start + chunk]).topk(
            min(kappa, len(gallery) - start), largest=False
        )
        best_distances.append(distances)
        best_indices.append(indices + start)
    distances, places = torch.cat(best_distances, 1).topk(kappa, largest=False)
    return distances.square(), torch.cat(best_indices, 1).gather(1, places)


def contenders(query, gallery, flat_query, flat_gallery, arguments):
    """Name -> a function that runs the search and returns its indices, flat, as a tensor (P, kappa)."""
    index = torch.arange(arguments.k)[None]
    found = {
        "fastspade": lambda: pyramid_knn(query, gallery, arguments.kappa, gallery_index=index, upsample=arguments.upsample)[
            1
        ].reshape(-1, arguments.kappa)
    }
    try:
        import faiss

        faiss.omp_set_num_threads(arguments.threads)
        found["faiss.knn"] = lambda: torch.from_numpy(faiss.knn(flat_query.numpy(), flat_gallery.numpy(), arguments.kappa)[1])
    except ImportError:
        print("faiss-cpu is not installed: left out", file=sys.stderr)
    found["torch.cdist + topk"] = lambda: torch_cdist(flat_query, flat_gallery, arguments.kappa)[1]
    try:
        from sklearn.neighbors import NearestNeighbors
        from threadpoolctl import threadpool_limits

        def sklearn():
            with threadpool_limits(arguments.threads):
                model = NearestNeighbors(n_neighbors=arguments.kappa, algorithm="brute").fit(flat_gallery.numpy())
                return torch.from_numpy(model.kneighbors(flat_query.numpy(), return_distance=False))

        found["scikit-learn brute"] = sklearn
    except ImportError:
        print("scikit-learn is not installed: left out", file=sys.stderr)
    return {name: run for name, run in found.items() if not arguments.only or name in arguments.only}


MEMORY_PROBE = """
import resource, sys, torch
sys.path.insert(0, {folder!r})
from features import make_features
from fastspade import pyramid_knn
torch.set_num_threads({threads})
query, gallery = make_features({data!r}, {shapes!r}, {k})
tiny = [level[:, :, :2, :2].contiguous() for level in query]
pyramid_knn(tiny, tiny, 1)
import ctypes, gc
gc.collect()
try:
    ctypes.CDLL(None).malloc_trim(0)  # hand back what making the features left free, or the search would reuse it unseen
except AttributeError:
    pass
# Inputs are in memory and the engine is warm: what the high-water mark gains now is the search's own.
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
def field(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
before = field("VmRSS")
outputs = pyramid_knn(query, gallery, {kappa}, upsample={upsample!r})
own = sum(t.numel() * t.element_size() for t in outputs)
print((field("VmHWM") - before) / 1024 - own / 2**20)
"""


def extra_memory(arguments) -> float | None:
    """Peak memory of fastspade's search beyond its inputs and outputs, in MiB, in a process of its own (Linux)."""
    folder = str(__import__("pathlib").Path(__file__).parent)
    script = MEMORY_PROBE.format(
        folder=folder,
        threads=arguments.threads,
        data=arguments.data,
        shapes=arguments.shapes,
        k=arguments.k,
        kappa=arguments.kappa,
        upsample=arguments.upsample,
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    return round(float(ended.stdout), 1) if ended.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes", choices=SHAPES, help="default: wide_resnet50_2 of random features, efficientnet_lite0 of real ones"
    )
    parser.add_argument("--data", choices=("random", *REAL), default="random")
    parser.add_argument("--k", type=int, default=10, help="gallery images")
    parser.add_argument("--kappa", type=int, default=1)
    parser.add_argument("--upsample", choices=("nearest", "bilinear"), default="nearest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="contenders to run, by name")
    parser.add_argument("--json", help="file to write the figures to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    arguments.shapes = arguments.shapes or ("wide_resnet50_2" if arguments.data == "random" else "efficientnet_lite0")
    query, gallery = make_features(arguments.data, arguments.shapes, arguments.k)
    flat_query = reference.descriptors(query, arguments.upsample)[0].float()
    flat_gallery = torch.cat(
        [
            reference.descriptors([level[i : i + 1] for level in gallery], arguments.upsample)[0].float()
            for i in range(arguments.k)
        ]
    )
    runs = contenders(query, gallery, flat_query, flat_gallery, arguments)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    indices = {}
    with tqdm(total=len(runs) * arguments.repeats, unit="run", disable=not sys.stderr.isatty()) as bar:
        for _ in range(arguments.repeats):
            for name, run in runs.items():
                bar.set_description(name)
                start = time.perf_counter()
                indices[name] = run()
                seconds[name].append(time.perf_counter() - start)
                bar.update()
    statistics_of_search = last_statistics()
    memory = extra_memory(arguments)

    channels, pairs = flat_query.shape[1], len(flat_query) * len(flat_gallery)
    print(
        f"{arguments.data} features, {arguments.shapes}, K={arguments.k}, kappa={arguments.kappa}, {arguments.upsample}, "
        f"{arguments.threads} threads"
    )
    print(
        f"{'':20s} {'median s':>9s} {'ms/gallery image':>17s} {'dense GFLOP/s':>14s} {'x fastspade':>12s} {'same nearest':>13s}"
    )
    own = statistics.median(seconds["fastspade"])
    rows = {}
    for name, times in seconds.items():
        median = statistics.median(times)
        same = float((indices[name][:, 0] == indices["fastspade"][:, 0]).double().mean())
        rows[name] = {"seconds": times, "median": median, "ratio": median / own, "same_nearest": same}
        print(
            f"{name:20s} {median:9.3f} {median / arguments.k * 1e3:17.2f} "
            f"{2 * pairs * channels / median / 1e9:14.0f} {median / own:12.2f} {same:13.4f}"
        )
    print(f"pairs whose finest level was never looked at: {statistics_of_search.skipped:.2%}")
    print(f"fastspade's peak memory beyond inputs and outputs: {memory} MiB")
    print(f"this process's peak, all contenders: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name not in ("json", "only")}
        machine.write(
            arguments.json,
            {"settings": settings, "contenders": rows, "skipped": statistics_of_search.skipped, "extra_memory_mib": memory},
        )


if __name__ == "__main__":
    main()
