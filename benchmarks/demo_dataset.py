"""Write the demo's data as a dataset in MVTec's layout, to try `fastspade eval` without downloading one.

python benchmarks/demo_dataset.py OUT [--seed 0] [--normal 60] [--good 10] [--each 5]     (needs ".[demo]")
fastspade eval OUT --layout mvtec --backbone efficientnet_lite0
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from fastspade.demo.scenes import CATEGORIES, make_scene


def write(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--normal", type=int, default=60, help="training images per category")
    parser.add_argument("--good", type=int, default=10, help="normal test images per category")
    parser.add_argument("--each", type=int, default=5, help="test images of every kind of defect")
    arguments = parser.parse_args()
    for name in CATEGORIES:
        scene = make_scene(name, arguments.seed, normal=arguments.normal, good=arguments.good, each=arguments.each)
        for i, picture in enumerate(scene.normal):
            write(picture, arguments.out / name / "train" / "good" / f"{i:03d}.png")
        numbers: Counter[str] = Counter()
        for image in scene.test:
            stem = f"{numbers[image.defect]:03d}"
            numbers[image.defect] += 1
            write(image.picture, arguments.out / name / "test" / image.defect / f"{stem}.png")
            if image.defect != "good":
                mask = image.mask.astype(np.uint8) * 255
                write(mask, arguments.out / name / "ground_truth" / image.defect / f"{stem}_mask.png")


if __name__ == "__main__":
    main()
