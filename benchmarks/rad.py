"""Preset "rad" beside anomalib's model of RAD, on the same network: the same maps, and what each takes.

    python benchmarks/rad.py [--backbone vit_small_patch16_dinov3] [--normal 60] [--out benchmarks/results/rad.json]
                                                                       (needs ".[demo,timm,anomalib]", anomalib 2.7 or newer)

Photographs of one object, a little moved and turned (the demo's), at RAD's 448 x 448 pixels, on the CPU. The weights are seeded random
ones, of the shapes of DINOv3's: times do not depend on them but for what can be pruned, and there is no network to get others
from. Networks are timed apart from the search, which is what differs; calls of both sides take turns in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from anomalib.models.image.rad.torch_model import RadModel
from machine import write

from fastspade import Spade
from fastspade.demo.scenes import make_scene

SIDE, ROUNDS = 448, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_dinov3")
    parser.add_argument("--normal", type=int, default=60)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    theirs = RadModel(arguments.backbone, pre_trained=False)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(theirs.feature_extractor.feature_extractor.state_dict(), Path(folder) / "random.pth")
        ours = Spade(
            f"timm:{arguments.backbone}", preset="rad", weights=Path(folder) / "random.pth", resize=SIDE, crop=None,
            device="cpu", progress=False,
        )  # fmt: skip
    scene = make_scene("coffee", 0, normal=arguments.normal, good=1, each=1)
    pictures = torch.stack([torch.from_numpy(one.copy()) for one in [*scene.normal, *(image.picture for image in scene.test)]])
    pixels = pictures.permute(0, 3, 1, 2).float() / 255
    pixels = torch.nn.functional.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)
    normal, test = pixels[: arguments.normal], pixels[arguments.normal :]
    normalised = (pixels - ours.backbone.shift) / ours.backbone.scale
    with torch.no_grad():
        theirs.train()
        for part in normalised[: arguments.normal].split(4):
            theirs(part)
        theirs.build_memory_bank()
        theirs.eval()
        expected = torch.cat([theirs(one).anomaly_map[:, 0] for one in normalised[arguments.normal :].split(1)]).numpy()
        found = np.asarray(ours.fit(normal).score(test).anomaly_maps)
        queries = [theirs._extract_features(one) for one in normalised[arguments.normal :].split(1)]
        mine = [ours.backbone(one) for one in test.split(1)]
        bank = ours.fitted_bank().snapshot
        matcher, gallery, grid = ours.matcher(bank), ours.device_bank(bank), theirs._patch_grid(SIDE, SIDE)
        seconds: dict[str, list[float]] = {"fastspade": [], "anomalib": []}
        for i in range(ROUNDS + 1):
            one = i % len(mine)
            start = time.perf_counter()
            matcher.match(*mine[one], gallery, (SIDE, SIDE))
            middle = time.perf_counter()
            theirs._score(queries[one], grid, (SIDE, SIDE))
            if i:  # the first is to warm up
                seconds["fastspade"].append(middle - start)
                seconds["anomalib"].append(time.perf_counter() - middle)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    record = {
        "backbone": arguments.backbone, "weights": "random", "normal_images": arguments.normal, "side": SIDE,
        "levels": [list(level.shape[1:]) for level in mine[0][1]], "images_matched": min(150, arguments.normal), "radius": 1,
        "largest_difference": float(np.abs(found - expected).max()), "largest_value": float(expected.max()),
        "matching_seconds": seconds, "median": medians, "ratio": medians["anomalib"] / medians["fastspade"],
    }  # fmt: skip
    print({name: record[name] for name in ("largest_difference", "largest_value", "median", "ratio")})
    if arguments.out:
        write(arguments.out, record)


if __name__ == "__main__":
    main()
