"""Large and elongated pictures: seconds of the processor and peak memory, whole at one size and in tiles, from a model in a folder.

    python benchmarks/whole_pictures.py --normal 3 --k 3 --out benchmarks/results/whole_pictures.json
    python benchmarks/whole_pictures.py --cases 7 --normal 50 --k 10 --overlap 0 --limit 8 --stand-in \
        --out benchmarks/results/whole_pictures_50.json

Every case runs in a process of its own, so that its peak memory is its own; with --limit, GiB of memory of its own (RLIMIT_DATA)
are all that it gets. Pictures are enlarged and shifted pieces of a photograph that scikit-image ships; efficientnet_lite0, or
with --stand-in a network with the same levels and next to no work of its own, so that many pictures can be tried.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe

CASES = [(size, tile) for size in ((500, 1250), (1024, 1024), (2048, 2048), (4096, 4096)) for tile in (None, 256)]


def pictures(size: tuple[int, int], count: int, folder: Path) -> list[str]:
    """`count` files of `size`, each from another place of the photograph, tiled to fill it."""
    from PIL import Image
    from skimage import data

    photo = np.asarray(data.gravel())
    files = []
    for i in range(count):
        random = np.random.default_rng(i)
        shifted = np.roll(photo, tuple(random.integers(0, 512, 2)), (0, 1))
        times = [-(-side // 512) for side in size]
        whole = np.tile(shifted, times)[: size[0], : size[1]]
        noisy = (whole // 2 + 32) + random.integers(0, 16, whole.shape, dtype=np.uint8)
        files.append(str(folder / f"{i}.bmp"))
        Image.fromarray(noisy).save(files[-1])
    return files


def stand_in() -> object:
    """Levels and embedding of efficientnet_lite0's shapes."""
    from torch import nn

    channels = (3, 24, 40, 112, 320)
    steps = [nn.Conv2d(a, b, 2 * s, s, s // 2) for a, b, s in zip(channels, channels[1:], (4, 2, 2, 2), strict=False)]
    return nn.Sequential(*(nn.Sequential(step, nn.ReLU()) for step in steps))


def run(
    size: tuple[int, int], tile: int | None, normal: int, k: int, threads: int, limit: float | None, overlap: float, cheap: bool
) -> dict[str, object]:
    import torch

    from fastspade import Spade

    torch.set_num_threads(threads)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**30),) * 2)
    with tempfile.TemporaryDirectory() as place:
        files = pictures(size, normal + 1, Path(place))
        model = Spade(
            stand_in() if cheap else "efficientnet_lite0",
            layers=["0", "1", "2"] if cheap else None,
            image_score="max",
            k=k,
            tile=tile,
            overlap=overlap,
            device="cpu",
            progress=False,
        )
        start = time.process_time()
        model.fit(files[:-1], path=Path(place, "bank"))
        fitted = time.process_time()
        found = model.score(files[-1])
        done = time.process_time()
        on_disk = sum(file.stat().st_size for file in Path(place, "bank").iterdir())
    assert found.anomaly_maps.shape == (1, *size)
    return {
        "size": list(size),
        "tile": tile,
        "overlap": overlap,
        "normal": normal,
        "k": k,
        "network": "stand-in" if cheap else "efficientnet_lite0",
        "entries": len(model.bank),
        "fit_seconds_a_normal": round((fitted - start) / normal, 2),
        "score_seconds": round(done - fitted, 2),
        "bank_MiB_a_normal": round(on_disk / normal / 2**20, 1),
        "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "limit_GiB": limit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--normal", type=int, default=3)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--limit", type=float, help="GiB of memory that a case may take (default: all)")
    parser.add_argument("--cases", type=int, nargs="+", help="numbers of those to run (default: all)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(
            json.dumps(
                run(
                    *CASES[arguments.case],
                    arguments.normal,
                    arguments.k,
                    arguments.threads,
                    arguments.limit,
                    arguments.overlap,
                    arguments.stand_in,
                )
            )
        )
        return
    results = []
    for number in arguments.cases or range(len(CASES)):
        own = ("normal", "k", "threads", "overlap", *(("limit",) if arguments.limit is not None else ()))
        command = [sys.executable, __file__, "--case", str(number), *(f"--{name}={getattr(arguments, name)}" for name in own)]
        command += ["--stand-in"] if arguments.stand_in else []
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(results[-1], flush=True)
    if arguments.out is not None:
        about = {"machine": describe(), "command": "whole_pictures.py " + " ".join(sys.argv[1:])}
        arguments.out.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
