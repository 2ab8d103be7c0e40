"""How fast is pyramid_knn on a GPU, beside the libraries one would use instead?

Every contender gets the same pixels on the device. fastspade is handed the pyramid as the network gives it and a gallery
prepared once, as a fitted model has it ("fastspade, unprepared" prepares it in every call). The others must be handed
concatenated descriptors: interpolating and concatenating is done for them beforehand and not counted. Contenders take turns
within each repeat; times are from CUDA events, medians after warm-up.

    python benchmarks/search_cuda.py --cases short                # K = 1 and 10
    python benchmarks/search_cuda.py --cases full --out benchmarks/results/gpu_search_full.json
    python benchmarks/search_cuda.py --cases real --data aligned  # features of photographs, made here (features.py)
    python benchmarks/search_cuda.py --cases real --features build/features.pt   # the same, made elsewhere
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import machine
import torch
from features import REAL, SHAPES, make_features

from fastspade import knn, pyramid_knn
from fastspade.search import PreparedGallery, last_statistics, ops, reference
from fastspade.search.cuda import plan_cuda

Contenders = dict[str, Callable[[], torch.Tensor]]


def matrix_peak(dtype: torch.dtype, size: int = 8192) -> float:
    """TFLOP/s of a large square matrix product: what this device's matrix units reach in practice."""
    a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * size**3 / milliseconds({"matmul": lambda: a @ b}, 20)["matmul"] / 1e9


def milliseconds(contenders: Contenders, repeats: int) -> dict[str, float]:
    """Median milliseconds a call, contenders taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
        call()
    for _ in range(repeats):
        for name, call in contenders.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def those_that_work(contenders: Contenders) -> Contenders:
    """A library that is installed but fails here, or whose memory does not suffice, costs its own line alone."""
    found: Contenders = {}
    for name, call in contenders.items():
        try:
            call()
            torch.cuda.synchronize()
            found[name] = call
        except Exception as error:  # every library fails in its own way
            print(f"{name} failed and is left out: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            torch.cuda.empty_cache()
    return found


def peak_bytes(call: Callable[[], object]) -> int:
    """Device memory that a call takes at its highest, beyond what was there."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def best_of_chunks(distances: Callable[[int, int], torch.Tensor], gallery: int, kappa: int, chunk: int) -> torch.Tensor:
    """topk over chunks of the gallery, so that the distance matrix fits in memory."""
    values, places = [], []
    for start in range(0, gallery, chunk):
        value, place = distances(start, min(start + chunk, gallery)).topk(min(kappa, gallery - start), largest=False)
        values.append(value)
        places.append(place + start)
    return torch.cat(places, 1).gather(1, torch.cat(values, 1).topk(kappa, largest=False).indices)


def dense_contenders(query: torch.Tensor, gallery: torch.Tensor, kappa: int, chunk: int = 1 << 16) -> Contenders:
    """Searches of flat vectors (Q, D) in (G, D), each returning indices."""
    found: Contenders = {
        "torch.cdist + topk": lambda: best_of_chunks(lambda a, b: torch.cdist(query, gallery[a:b]), len(gallery), kappa, chunk)
    }

    def product(a, b, norms, tf32):
        def distances(start, end):
            return norms[start:end] - 2 * (a @ b[start:end].t()).float()

        def call():
            before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = tf32
            try:
                return best_of_chunks(distances, len(b), kappa, chunk)
            finally:
                torch.backends.cuda.matmul.allow_tf32 = before

        return call

    norms = gallery.square().sum(1)
    halves = query.half(), gallery.half()
    found["torch matmul fp32 + topk"] = product(query, gallery, norms, False)
    found["torch matmul tf32 + topk"] = product(query, gallery, norms, True)
    found["torch matmul fp16 + topk"] = product(*halves, norms, False)
    try:
        import faiss
        import faiss.contrib.torch_utils  # noqa: F401  faiss then takes torch tensors

        resources = faiss.StandardGpuResources()
        found["faiss.knn_gpu"] = lambda: faiss.knn_gpu(resources, query, gallery, kappa)[1]
    except (ImportError, AttributeError):
        print("FAISS with GPU support is not installed: left out")
    try:
        from cuvs.neighbors import brute_force

        index = brute_force.build(gallery, metric="sqeuclidean")
        found["cuvs.brute_force"] = lambda: torch.as_tensor(brute_force.search(index, query, kappa)[1], device="cuda")
    except ImportError:
        print("cuVS is not installed: left out")
    try:
        from pykeops.torch import LazyTensor

        found["KeOps argKmin"] = lambda: ((LazyTensor(query[:, None]) - LazyTensor(gallery[None])) ** 2).sum(-1).argKmin(kappa, dim=1)
    except ImportError:
        print("KeOps is not installed: left out")
    return found


def agreement(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Share of neighbours that are fastspade's."""
    return (found.reshape(exact.shape).to(exact.device).sort(1).values == exact.sort(1).values).float().mean().item()


def report(title: str, times: dict[str, float], extra: dict[str, dict[str, float]], first: str) -> dict[str, object]:
    print(f"\n{title}")
    results = {}
    for name, time in sorted(times.items(), key=lambda item: item[1]):
        results[name] = {"milliseconds": time, f"times {first}": time / times[first], **extra.get(name, {})}
        more = "  ".join(f"{key} {value:.4g}" for key, value in results[name].items() if key not in ("milliseconds", f"times {first}"))
        print(f"  {name:28s} {time:10.3f} ms  {time / times[first]:7.2f}x  {more}")
    return results


def pyramid_case(
    query, gallery, kappa: int, upsample: str, repeats: int, peak: float, baselines: bool, source: str = "random"
) -> dict[str, object]:
    """One query image against all gallery images."""
    prepared = PreparedGallery(gallery, upsample=upsample)
    pixels, images = query[0].shape[2] * query[0].shape[3], len(prepared)
    contenders: Contenders = {
        "fastspade": lambda: pyramid_knn(query, prepared, kappa, upsample=upsample)[1].reshape(pixels, kappa),
        "fastspade, fast": lambda: pyramid_knn(query, prepared, kappa, upsample=upsample, precision="fast")[1].reshape(pixels, kappa),
        "fastspade, unprepared": lambda: pyramid_knn(query, gallery, kappa, upsample=upsample)[1].reshape(pixels, kappa),
    }
    exact = contenders["fastspade"]()
    uncertain = last_statistics().uncertain_rows
    channels = sum(level.shape[1] for level in query)
    if baselines:
        flat = [reference.descriptors([l[i : i + 1] for l in side], upsample).float()[0] for side in (query, gallery) for i in range(len(side[0]))]
        contenders |= those_that_work(dense_contenders(flat[0], torch.cat(flat[1:]), kappa))
    times = milliseconds(contenders, repeats)
    # Multiply-adds really executed: the query's interpolated features against the gallery's native ones, padding left out.
    executed = 2 * pixels * images * sum(level.shape[1] * level.shape[2] * level.shape[3] for level in gallery)
    dense = 2 * pixels * images * pixels * channels
    extra = {name: {"peak_mib": peak_bytes(call) / 2**20, "same": agreement(call(), exact)} for name, call in contenders.items()}
    extra["fastspade"] |= {
        "uncertain_rows": uncertain,
        "tflops": executed / times["fastspade"] / 1e9,
        "dense_equivalent_tflops": dense / times["fastspade"] / 1e9,
        "share_of_peak": executed / times["fastspade"] / 1e9 / peak,
        "prepared_mib": prepared.nbytes / 2**20,
    }
    plan = plan_cuda(query, gallery, kappa, images, {"nearest": 0, "bilinear": 1}[upsample])
    shapes = tuple(tuple(level.shape[1:]) for level in query)
    title = f"pyramid_knn K={images} kappa={kappa} {upsample}, {source} features {' '.join(map(str, shapes))}, {plan['path']} search"
    result = {"case": title, "plan": plan, "results": report(title, times, extra, "fastspade")}
    if (images, kappa, shapes) == (50, 1, SHAPES["wide_resnet50_2"]):
        result["targets"] = judge(plan["path"], times, extra["fastspade"]["peak_mib"])
    return result


def judge(path: str, times: dict[str, float], peak_mib: float) -> dict[str, bool]:
    """What K = 50 and kappa = 1 should take on an H100 with the paper's shapes; baselines only where they ran."""
    most = {"sm80": 1.0, "sm90a": 0.6}[path]
    targets = {f"at most {most} ms": times["fastspade"] <= most, "at most 256 MiB": peak_mib <= 256}
    others = {name: time for name, time in times.items() if not name.startswith("fastspade")}
    slow = others.pop("torch.cdist + topk", None)
    if slow is not None:
        targets["40 times torch.cdist + topk"] = slow >= 40 * times["fastspade"]
    if others:
        targets["10 times the best of the others"] = min(others.values()) >= 10 * times["fastspade"]
    return told(targets)


def told(targets: dict[str, bool]) -> dict[str, bool]:
    for target, met in targets.items():
        print(f"  {'pass' if met else 'FAIL'}  {target}")
    return targets


def knn_case(queries: int, vectors: int, dimension: int, kappa: int, repeats: int, peak: float) -> dict[str, object]:
    query, gallery = torch.randn(queries, dimension, device="cuda"), torch.randn(vectors, dimension, device="cuda")
    # knn prepares its gallery in every call; a gallery searched again and again is prepared once.
    images = [[matrix.t()[None, :, :, None]] for matrix in (query, gallery)]
    prepared = ops.prepare_gallery(images[1], "nearest", "float16")
    contenders: Contenders = {
        "fastspade.knn": lambda: knn(query, gallery, kappa)[1],
        "fastspade, prepared": lambda: ops.search(*images, prepared, kappa, None, "nearest", "exact", "float16")[1],
    }
    exact = contenders["fastspade.knn"]()
    contenders |= those_that_work(dense_contenders(query, gallery, kappa))
    times = milliseconds(contenders, repeats)
    work = 2 * queries * vectors * dimension
    extra = {name: {"tflops": work / time / 1e9, "share_of_peak": work / time / 1e9 / peak} for name, time in times.items()}
    for name, call in contenders.items():
        extra[name] |= {"peak_mib": peak_bytes(call) / 2**20, "same": agreement(call(), exact)}
    title = f"knn {queries} in {vectors} of {dimension}, kappa={kappa}"
    result = {"case": title, "results": report(title, times, extra, "fastspade.knn")}
    if work > 1e12:  # long enough for the matrix units to matter
        result["targets"] = told({f"{name} at 60 % of the matrix peak": extra[name]["share_of_peak"] >= 0.6 for name in list(times)[:2]})
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", choices=["short", "full", "real", "profile"], default="short")
    parser.add_argument("--shapes", choices=list(SHAPES), default="wide_resnet50_2")
    parser.add_argument("--data", choices=("random", *REAL), default="random")
    parser.add_argument("--features", help="a file of features, as features.py writes it, to search instead")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", help="JSON file to write")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/search_cuda.py needs a CUDA device, and torch sees none")

    largest, source = 10 if arguments.cases == "short" else 50, arguments.data
    if arguments.features:
        (query, gallery), source = torch.load(arguments.features, weights_only=True), "real"
    else:
        query, gallery = make_features(arguments.data, arguments.shapes, largest)
    largest = min(largest, len(gallery[0]))
    query, gallery = [level[:1].cuda().float() for level in query], [level.cuda().float() for level in gallery]
    # Channels last is how the features are stored after fit: the exact ranking reads whole vectors.
    query, gallery = ([level.contiguous(memory_format=torch.channels_last) for level in side] for side in (query, gallery))
    if arguments.cases == "profile":
        prepared = PreparedGallery(gallery)
        for _ in range(2):
            pyramid_knn(query, prepared, 1)
        torch.cuda.synchronize()
        return

    peaks = {"float16": matrix_peak(torch.float16), "bfloat16": matrix_peak(torch.bfloat16)}
    print("matrix peak, TFLOP/s:", {name: round(value, 1) for name, value in peaks.items()})
    cases = []

    def keep(case: dict[str, object]) -> None:
        cases.append(case)
        if arguments.out:  # kept even if a later case fails
            machine.write(arguments.out, {"matrix_peak_tflops": peaks, "cases": cases})

    sizes = [(1, 1), (10, 1)] if arguments.cases == "short" else [(n, kappa) for n in dict.fromkeys((largest, min(10, largest), 1)) for kappa in (1, 5)]
    for images, kappa in sizes:
        part = [level[:images] for level in gallery]
        keep(pyramid_case(query, part, kappa, "bilinear", arguments.repeats, peaks["float16"], True, source))
        if kappa == 1:
            keep(pyramid_case(query, part, kappa, "nearest", arguments.repeats, peaks["float16"], False, source))
    shapes = {
        "short": [(10_000, 10_000, 128, 1)],
        "full": [(10_000, 100_000, 128, 1), (10_000, 100_000, 512, 5), (3136, 156_800, 1792, 1), (1, 1_000_000, 128, 1)],
        "real": [],
    }
    for shape in shapes[arguments.cases]:
        keep(knn_case(*shape, arguments.repeats, peaks["bfloat16"]))


if __name__ == "__main__":
    main()
