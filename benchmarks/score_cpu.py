"""Images a second end to end, from pixels to map and score, one image after another: fastspade, and anomalib's PatchCore as it is.

Both have the same network (seeded random weights) and the same bank of images of one object, a little moved, turned and relit.
PatchCore searches what it calls a coreset, a tenth of its vectors (blocks two and three), in its own way. Here the tenth is drawn
at random instead of by k centres, which would take hours and gives a set of the same size, so that scoring takes the same time.
They take turns; medians are shown.

    python benchmarks/score_cpu.py --json benchmarks/results/score_cpu.json  (needs ".[bench]" and anomalib)
"""

from __future__ import annotations

import argparse
import statistics
import time

import machine
import numpy as np
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from features import open_backbone, photographs
from tqdm import tqdm

from fastspade import Spade


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=("resnet18", "resnet50", "wide_resnet50_2"), default="resnet18")
    parser.add_argument("--bank", type=int, default=300, help="images")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--scored", type=int, default=10, help="images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="file to write the figures to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    pictures = list(photographs("aligned", arguments.bank + arguments.scored, 0))
    bank, scored = pictures[arguments.scored :], pictures[: arguments.scored]
    spade = Spade(backbone=open_backbone(arguments.backbone)[0], k=arguments.k, resize=224, crop=224).fit(bank)
    patchcore = PatchcoreModel(["layer2", "layer3"], arguments.backbone, pre_trained=False)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def pixels(picture: np.ndarray) -> torch.Tensor:
        return ((torch.from_numpy(picture).permute(2, 0, 1).float() / 255 - mean) / deviation)[None]

    with torch.no_grad():
        for picture in tqdm(bank, "PatchCore's bank"):
            patchcore(pixels(picture))
        vectors = torch.vstack(patchcore.embedding_store)
        drawn = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[: len(vectors) // 10]
        patchcore.memory_bank = vectors[drawn].clone()
        patchcore.embedding_store.clear()
        patchcore.eval()
        runs = {"fastspade": lambda picture: spade.score([picture]), "PatchCore": lambda picture: patchcore(pixels(picture))}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number, picture in enumerate(tqdm([scored[0], *scored], "score")):
            for name, run in runs.items():
                start = time.perf_counter()
                run(picture)
                if number:  # the first warms up
                    seconds[name].append(time.perf_counter() - start)
    rates = {name: 1 / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:10s} {rate:7.2f} images a second")
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        machine.write(arguments.json, {"settings": settings, "seconds": seconds, "images_a_second": rates})


if __name__ == "__main__":
    main()
