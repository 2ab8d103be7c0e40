"""Scale-out: throughput of fastspade.ray.score against workers, and what a cluster would need.

    python benchmarks/scale_out.py measure [--workers 1 2] [--images 48]      (needs ".[demo,ray]")
    python benchmarks/scale_out.py model                                      (needs what `measure` wrote)

`measure` scores photographs on a local Ray and writes results/scale_out.json. `model` prints the tables of docs/scale_out.md:
a cluster's needs, computed by `cluster` from counted, measured and assumed figures, each marked as what it is.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

RESULTS = Path(__file__).parent / "results" / "scale_out.json"
SIDE = 1024  # of the photographs
CROP = 224
BATCH = 4

# -- measuring


def photographs(folder: Path, count: int, seed: int) -> list[Path]:
    """One object (scikit-image's coffee cup) taken again and again, a little moved, turned and relit, as JPEG of SIDE pixels."""
    from skimage import data

    whole, random, files = Image.fromarray(data.coffee()), np.random.default_rng(seed), []
    folder.mkdir()
    for i in range(count):
        turned = whole.rotate(random.normal(0, 1.2), resample=Image.Resampling.BICUBIC, center=(300, 210))
        left, top, size = 120 + random.normal(0, 3), 60 + random.normal(0, 3), 300 * (1 + random.normal(0, 0.01))
        crop = turned.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + size, top + size))
        lit = np.asarray(crop) * (1 + random.normal(0, 0.05)) + random.normal(0, 2, (SIDE, SIDE, 3))
        files.append(folder / f"{i:04}.jpg")
        Image.fromarray(np.clip(np.rint(lit), 0, 255).astype(np.uint8)).save(files[-1], quality=90)
    return files


def measure(workers: list[int], images: int, normal: int, repeats: int) -> dict:
    """Seconds per image: by stage in one thread, and of whole runs on Ray, workers taken in turns."""
    import ray

    from fastspade import Spade
    from fastspade.ray import score

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=max(workers), include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        test = photographs(root / "test", images, 1)
        options = dict(
            k=50, resize=CROP, crop=CROP, keep_crop=True, device="cpu", batch_size=BATCH, num_workers=1, progress=False
        )
        model = Spade("efficientnet_lite0", **options).fit([str(file) for file in photographs(root / "normal", normal, 0)])
        model.save(root / "model.safetensors")
        result = {
            "image": {"pixels": [SIDE, SIDE], "jpeg_bytes": statistics.mean(file.stat().st_size for file in test)},
            "normal_images": normal,
            "backbone": "efficientnet_lite0",
            "stages": stages(model, test[:16]),
            "workers": {str(count): [] for count in workers},
        }
        for repeat in range(repeats):
            for count in workers if repeat % 2 == 0 else workers[::-1]:
                out = root / f"out-{repeat}-{count}"
                begun = time.perf_counter()
                score(str(root / "test"), root / "model.safetensors", output=out, concurrency=count, num_gpus=0,
                      batch_size=BATCH, images_per_part=BATCH, num_workers=1, progress=False)  # fmt: skip
                whole = time.perf_counter() - begun
                ends = sorted(file.stat().st_mtime for file in out.glob("part-*.parquet"))
                # From the first part of each worker to the last part of all: without starting processes and loading the model.
                steady = (len(ends) - count) * BATCH / (ends[-1] - ends[count - 1])
                result["workers"][str(count)].append({"seconds": whole, "images_a_second": steady})
                print(f"{count} workers: {whole:.1f} s in all, {steady:.2f} images/s once running", flush=True)
    ray.shutdown()
    return result


def stages(model, files: list[Path]) -> dict[str, float]:
    """Seconds per image and stage, one thread, and bytes of what is written."""
    from fastspade.images import open_source
    from fastspade.ray.output import encode_map

    names = [str(file) for file in files]
    list(model.score_batches(names[:BATCH]))
    begun = time.perf_counter()
    batches = list(open_source(names, resize=CROP, crop=CROP, batch_size=BATCH, num_workers=0))
    read = time.perf_counter() - begun
    begun = time.perf_counter()
    for batch in batches:
        model._features(batch.pixels)
    features = time.perf_counter() - begun
    begun = time.perf_counter()
    scored = list(model.score_batches(torch.cat([batch.pixels for batch in batches])))
    whole = time.perf_counter() - begun
    begun = time.perf_counter()
    maps = [encode_map(one.anomaly_map)[0] for one in scored]
    encode = time.perf_counter() - begun
    seconds = {"read": read, "features": features, "search_and_map": whole - features, "encode_map": encode}
    return {name: value / len(files) for name, value in seconds.items()} | {"map_bytes": statistics.mean(map(len, maps))}


# -- the model of a cluster

LEVELS = ((256, 56, 56), (512, 28, 28), (1024, 14, 14))  # Wide-ResNet50-2 at 224 pixels (SPADE, section 4)
EMBEDDING = 2048


@dataclass(frozen=True)
class Inputs:
    """What `cluster` starts from. measured: on the machine that results/scale_out.json names. assumed: not measured by us."""

    images: float = 1e9  # asked
    gpus: int = 1000  # asked
    normal_images: int = 1000  # asked
    k: int = 50  # asked
    jpeg_bytes: float = 0.0  # measured: of the benchmark's photographs
    read_seconds: float = 0.0  # measured: one CPU core decodes and crops one of them
    encode_seconds: float = 0.0  # measured: one CPU core compresses a map of the crop
    map_bytes: float = 0.0  # measured: that map's PNG
    row_bytes: float = 50 * 12 + 200  # counted: K neighbours (int64) and distances (float32), a name, numbers
    search_seconds: float = 1.0e-3  # assumed: the aim for one H100 at K = 50; no GPU has been measured
    backbone_flops: float = 200e12  # assumed: FLOP/s that the backbone reaches, a fifth of an H100's 16-bit peak
    gpu_memory: float = 80e9  # assumed: an H100
    bank_share: float = 0.6  # counted: share of the free memory that the bank may fill (fastspade.spade.device_bank)
    gpus_a_node: int = 8  # assumed
    node_memory: float = 1e12  # assumed
    link: float = 50e9  # assumed: bytes/s per GPU between nodes (400 Gbit/s)


def bank_bytes(images: int = 1) -> dict[str, float]:
    """Bytes of the features of normal images: kept (float32), and on a device (with 16-bit operands and norms)."""
    values = sum(c * h * w for c, h, w in LEVELS)
    pixels = LEVELS[0][1] * LEVELS[0][2]
    return {"kept": 4.0 * images * (values + EMBEDDING), "on_device": images * (6.0 * values + 4 * pixels + 4 * EMBEDDING)}


def search_flops(k: int, normal_images: int) -> dict[str, float]:
    """FLOP per image: stage 1, and stage 2 with every level's products at its own resolution, and as concatenated vectors."""
    height, width = LEVELS[0][1:]
    pairs = k * (height * width) ** 2
    factored = sum(c * (h * w / (height * width)) ** 2 for c, h, w in LEVELS)
    dense = sum(c for c, _, _ in LEVELS)
    return {"stage1": 2.0 * normal_images * EMBEDDING, "stage2": 2 * pairs * factored, "stage2_dense": 2.0 * pairs * dense}


def backbone_flop() -> float:
    """FLOP of Wide-ResNet50-2 for one image of 224 pixels, counted operator by operator, without its classifier."""
    import torchvision
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = torchvision.models.wide_resnet50_2(weights=None)
        network.fc = torch.nn.Identity()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, CROP, CROP))
    return float(counter.get_total_flops())


def cluster(at: Inputs) -> dict[str, float]:
    """What the inputs come to. Every line is one product or quotient of inputs and counts."""
    flop, search, bank = backbone_flop(), search_flops(at.k, at.normal_images), bank_bytes()
    seconds = flop / at.backbone_flops + at.search_seconds
    rate = 1 / seconds
    values = sum(c * h * w for c, h, w in LEVELS)
    pixels = LEVELS[0][1] * LEVELS[0][2]
    fits = int(at.bank_share * at.gpu_memory / bank["on_device"])
    shards = max(1, -(-at.normal_images // fits))
    sent = 4 * (values + EMBEDDING) if shards > 1 else 0.0
    merged = 12.0 * shards * (pixels + at.k) if shards > 1 else 0.0
    return {
        "backbone_flop": flop,
        "stage1_flop": search["stage1"],
        "stage2_flop": search["stage2"],
        "stage2_dense_flop": search["stage2_dense"],
        "search_flops_needed": search["stage2"] / at.search_seconds,
        "seconds_an_image": seconds,
        "gpu_images_a_second": rate,
        "cluster_images_a_second": rate * at.gpus,
        "hours": at.images / (rate * at.gpus) / 3600,
        "cores_a_gpu": rate * (at.read_seconds + at.encode_seconds),
        "cores_a_gpu_without_maps": rate * at.read_seconds,
        "read_bytes_a_second": rate * at.gpus * at.jpeg_bytes,
        "node_read_bytes_a_second": rate * at.gpus_a_node * at.jpeg_bytes,
        "written_bytes_a_second": rate * at.gpus * (at.map_bytes + at.row_bytes),
        "stored_bytes": at.images * (at.map_bytes + at.row_bytes),
        "stored_bytes_without_maps": at.images * at.row_bytes,
        "bank_bytes": bank["kept"] * at.normal_images,
        "bank_bytes_on_device": bank["on_device"] * at.normal_images,
        "fits_a_gpu": fits,
        "fits_a_node": int(at.node_memory / bank["kept"]),
        "shards": shards,
        "shard_bytes_an_image": sent + merged,
        "shard_link_seconds": (sent + merged) / at.link,
    }


def measured_inputs(path: Path = RESULTS) -> Inputs:
    known = json.loads(path.read_text(encoding="utf-8"))
    stage = known["stages"]
    return Inputs(
        jpeg_bytes=known["image"]["jpeg_bytes"],
        read_seconds=stage["read"],
        encode_seconds=stage["encode_map"],
        map_bytes=stage["map_bytes"],
    )


def tables(at: Inputs) -> str:
    """The tables of docs/scale_out.md."""
    got = cluster(at)
    out = io.StringIO()

    def table(head: str, rows: list[tuple[str, ...]]) -> None:
        width = head.count("|") - 1
        print(head, "|" + "---|" * width, *("| " + " | ".join(row) + " |" for row in rows), sep="\n", end="\n\n", file=out)

    table("| input | value | how known |", [
        ("images", f"{at.images:.0e}", "asked"),
        ("GPUs, per node", f"{at.gpus}, {at.gpus_a_node}", "asked, assumed"),
        ("photograph (JPEG)", f"{at.jpeg_bytes / 1e3:.0f} kB", "measured"),
        ("decode and crop it, one core", f"{at.read_seconds * 1e3:.1f} ms", "measured"),
        ("compress a 224 x 224 map, one core", f"{at.encode_seconds * 1e3:.1f} ms, {at.map_bytes / 1e3:.0f} kB", "measured"),
        ("search on a GPU, K = 50", f"{at.search_seconds * 1e3:.1f} ms", "assumed (the aim; not measured)"),
        ("backbone on a GPU", f"{at.backbone_flops / 1e12:.0f} TFLOP/s", "assumed"),
        ("memory of a GPU, of a node", f"{at.gpu_memory / 1e9:.0f} GB, {at.node_memory / 1e12:.0f} TB", "assumed"),
        ("network, per GPU", f"{at.link / 1e9:.0f} GB/s", "assumed"),
    ])  # fmt: skip
    table("| per image | |", [
        ("backbone", f"{got['backbone_flop'] / 1e9:.1f} GFLOP"),
        ("stage 1, 1,000 normal images", f"{got['stage1_flop'] / 1e6:.1f} MFLOP"),
        ("stage 2 as done, as concatenated vectors", f"{got['stage2_flop'] / 1e12:.2f}, {got['stage2_dense_flop'] / 1e12:.2f} TFLOP"),
        ("needed for the assumed search time", f"{got['search_flops_needed'] / 1e12:.0f} TFLOP/s"),
        ("on a GPU", f"{got['seconds_an_image'] * 1e3:.2f} ms: {got['gpu_images_a_second']:.0f} images/s"),
    ])  # fmt: skip
    table("| the cluster | |", [
        ("time", f"{got['hours']:.2f} hours at {got['cluster_images_a_second']:,.0f} images/s"),
        ("CPU cores per GPU, with maps and without", f"{got['cores_a_gpu']:.0f}, {got['cores_a_gpu_without_maps']:.0f}"),
        ("reading", f"{got['read_bytes_a_second'] / 1e9:.0f} GB/s in all, {got['node_read_bytes_a_second'] / 1e9:.1f} a node"),
        ("writing", f"{got['written_bytes_a_second'] / 1e9:.0f} GB/s in all"),
        ("stored, with maps and without", f"{got['stored_bytes'] / 1e12:.0f}, {got['stored_bytes_without_maps'] / 1e12:.1f} TB"),
    ])  # fmt: skip
    rows = []
    for count in (1_000, 10_000, 100_000, 1_000_000):
        here = cluster(Inputs(**vars(at) | {"normal_images": count}))
        rows.append((
            f"{count:,}",
            f"{here['bank_bytes'] / 1e9:,.1f} GB",
            f"{here['bank_bytes_on_device'] / 1e9:,.1f} GB",
            "yes" if count <= here["fits_a_gpu"] else "no",
            "yes" if count <= here["fits_a_node"] else "no",
            f"{here['shards']}",
            f"{here['shard_bytes_an_image'] / 1e6:.1f} MB, {here['shard_link_seconds'] * 1e3:.2f} ms" if here["shards"] > 1 else "none",
        ))  # fmt: skip
    table(
        "| normal images | kept | on a GPU | fits a GPU | fits a node's memory | GPUs to hold one copy | received per rank and image |",
        rows,
    )
    return out.getvalue().rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "model"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--normal", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.what == "model":
        print(tables(measured_inputs()), end="")
        return
    import machine

    machine.write(RESULTS, measure(arguments.workers, arguments.images, arguments.normal, arguments.repeats))


if __name__ == "__main__":
    main()
