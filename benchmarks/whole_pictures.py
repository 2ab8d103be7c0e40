"""Large and elongated pictures: seconds and peak memory, whole at one size and in tiles, from a model in a folder.

    python benchmarks/whole_pictures.py --limit 8 --out benchmarks/results/whole_pictures.json

Every case runs in a process of its own, so that its peak memory is its own; with --limit, GiB of memory of its own (RLIMIT_DATA)
are all that it gets. Pictures are enlarged and shifted pieces of a photograph that scikit-image ships. Seconds are of the
processor, of all threads together; `elapsed` by the clock. `fit` also matches up to 300 normal images or tiles against the
others, which the default image score asks for. A run may be split: the cases that FILE has already are kept.
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

NETWORK = "efficientnet_lite0"
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


def run(size: tuple[int, int], tile: int | None, arguments: argparse.Namespace) -> dict[str, object]:
    import torch

    from fastspade import Spade

    torch.set_num_threads(arguments.threads)
    if arguments.limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(arguments.limit * 2**30),) * 2)
    with tempfile.TemporaryDirectory() as place:
        files = pictures(size, arguments.normal + 1, Path(place))
        model = Spade(NETWORK, k=arguments.k, tile=tile, overlap=arguments.overlap, device="cpu", progress=False)
        moments = [(time.process_time(), time.perf_counter())]

        def step() -> None:
            moments.append((time.process_time(), time.perf_counter()))

        model.fit(files[:-1], path=Path(place, "bank"))
        step()
        found = model.score(files[-1])
        step()
        on_disk = sum(file.stat().st_size for file in Path(place, "bank").iterdir())
    assert found.anomaly_maps.shape == (1, *size)
    fit, score = ([b - a for a, b in zip(*pair, strict=True)] for pair in zip(moments, moments[1:], strict=False))
    return {
        "size": list(size),
        "tile": tile,
        "overlap": arguments.overlap,
        "normal": arguments.normal,
        "k": arguments.k,
        "network": NETWORK,
        "threads": arguments.threads,
        "entries": len(model.fitted_bank()),
        "fit_seconds_a_normal": round(fit[0] / arguments.normal, 2),
        "score_seconds": round(score[0], 2),
        "elapsed": {"fit": round(fit[1], 1), "score": round(score[1], 2)},
        "bank_MiB_a_normal": round(on_disk / arguments.normal / 2**20, 1),
        "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "limit_GiB": arguments.limit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--normal", type=int, default=50)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--limit", type=float, help="GiB of memory that a case may take (default: all)")
    parser.add_argument("--cases", type=int, nargs="+", default=list(range(len(CASES))), help="numbers of those to run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(run(*CASES[arguments.case], arguments)))
        return
    results = json.loads(arguments.out.read_text())["results"] if arguments.out and arguments.out.exists() else []
    known = {(*one["size"], one["tile"]) for one in results}
    for number in (number for number in arguments.cases if (*CASES[number][0], CASES[number][1]) not in known):
        done = subprocess.run(
            [sys.executable, __file__, "--case", str(number), *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=True
        )
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(results[-1], flush=True)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps({"machine": describe(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
