"""How much does the backbone alone vary with the batch's size and the number of threads? See docs/determinism.md.

    python benchmarks/determinism.py      into results/determinism.json     (needs ".[demo]")

efficientnet_lite0 at 224 x 224 on crops of three photographs (fastspade.demo): 30 normal ones, 12 good and defective ones to
score, K = 10. Each way of running the network is compared with one image at a time and one thread. Features: the largest
difference of any level, over that level's largest value. Scores and maps: the largest relative change, of image scores and
of every pixel of the maps, where the normal images' features are the same and only the scored images' vary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch

from fastspade import Spade
from fastspade.demo.scenes import CATEGORIES, make_scene

RESULTS = Path(__file__).parent / "results" / "determinism.json"
NORMAL, TEST = 10, 4  # of each scene
WAYS = [(batch, threads) for threads in (1, 2) for batch in (1, 2, 8)]  # the first is what the others are compared with


def run(model: Spade, pictures: list[Any], batch: int, threads: int) -> dict[str, Any]:
    """Features, image scores and maps of the pictures."""
    torch.set_num_threads(threads)
    model.batch_size = batch
    parts = list(model.extractor.stream(pictures))
    levels = [torch.cat(level) for level in zip(*(part.pyramid for part in parts), strict=True)]
    result = model.score(pictures)
    return {"levels": levels, "scores": result.image_scores, "maps": np.stack([image.anomaly_map for image in result.images])}


def change(found: np.ndarray, wanted: np.ndarray) -> float:
    return float((np.abs(found.astype(np.float64) - wanted) / np.abs(wanted)).max())


def main() -> None:
    scenes = [make_scene(name, 0, good=2, each=1) for name in CATEGORIES]
    normal = [picture for scene in scenes for picture in scene.normal[:NORMAL]]
    test = [image.picture for scene in scenes for image in scene.test[:TEST]]
    torch.set_num_threads(1)
    model = Spade("efficientnet_lite0", k=10, resize=224, crop=224, keep_crop=True, device="cpu", progress=False, batch_size=1)
    model.fit(normal)
    wanted, rows = run(model, test, *WAYS[0]), []
    for batch, threads in WAYS:
        found = run(model, test, batch, threads)
        differences = [
            float((mine - theirs).abs().max() / theirs.abs().max())
            for mine, theirs in zip(found["levels"], wanted["levels"], strict=True)
        ]
        rows.append({
            "batch_size": batch, "threads": threads, "features": max(differences),
            "scores": change(found["scores"], wanted["scores"]), "maps": change(found["maps"], wanted["maps"]),
        })  # fmt: skip
        print(rows[-1], flush=True)
    about = {"backbone": "efficientnet_lite0", "side": 224, "normal_images": len(normal), "images_scored": len(test)}
    machine.write(RESULTS, {"data": about, "rows": rows})


if __name__ == "__main__":
    main()
