"""Large and elongated pictures: seconds and peak memory, whole at one size and in tiles, from a model in a folder.

    python benchmarks/whole_pictures.py --normal 3 --k 3 --out benchmarks/results/whole_pictures.json

Every case runs in a process of its own, so that its peak memory is its own. Pictures are enlarged and shifted pieces of a
photograph that scikit-image ships; efficientnet_lite0, two threads.
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
    """`count` PNG files of `size`, each from another place of the photograph, tiled to fill it."""
    from PIL import Image
    from skimage import data

    photo = np.asarray(data.gravel())
    files = []
    for i in range(count):
        random = np.random.default_rng(i)
        shifted = np.roll(photo, tuple(random.integers(0, 512, 2)), (0, 1))
        times = [-(-side // 512) for side in size]
        whole = np.tile(shifted, times)[: size[0], : size[1]]
        noisy = np.clip(whole + random.normal(0, 4, whole.shape), 0, 255).astype(np.uint8)
        files.append(str(folder / f"{i}.png"))
        Image.fromarray(noisy).convert("RGB").save(files[-1], compress_level=1)
    return files


def run(size: tuple[int, int], tile: int | None, normal: int, k: int, threads: int) -> dict[str, object]:
    import torch

    from fastspade import Spade

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as place:
        files = pictures(size, normal + 1, Path(place))
        model = Spade(
            "efficientnet_lite0",
            k=k,
            k_image=1,
            tile=tile,
            aligned=tile is not None,
            image_score="max",
            device="cpu",
            progress=False,
        )
        start = time.perf_counter()
        model.fit(files[:-1], path=Path(place, "bank"))
        fitted = time.perf_counter()
        found = model.score(files[-1])
        done = time.perf_counter()
        on_disk = sum(file.stat().st_size for file in Path(place, "bank").iterdir())
    assert found.anomaly_maps.shape == (1, *size)
    return {
        "size": list(size), "tile": tile, "entries": len(model.bank), "fit_seconds_a_normal": round((fitted - start) / normal, 2),
        "score_seconds": round(done - fitted, 2), "bank_MiB_a_normal": round(on_disk / normal / 2**20, 1),
        "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--normal", type=int, default=3)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", type=int, nargs="+", help="numbers of those to run (default: all)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(run(*CASES[arguments.case], arguments.normal, arguments.k, arguments.threads)))
        return
    results = []
    for number in arguments.cases or range(len(CASES)):
        command = [sys.executable, __file__, "--case", str(number), "--normal", str(arguments.normal), "--k", str(arguments.k),
                   "--threads", str(arguments.threads)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(results[-1], flush=True)
    if arguments.out is not None:
        about = {"machine": describe(), "command": "whole_pictures.py " + " ".join(sys.argv[1:])}
        arguments.out.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
