"""What does each backbone cost per image? Network, descriptors, bank and search, side by side.

    python benchmarks/backbones.py [--only NAME ...] [--out benchmarks/results/backbones.json]  (needs ".[bench,demo,timm]")

Photographs of one object, a little moved and turned (benchmarks/features.py), at 224 x 224: one is searched among fifty,
bilinear, kappa 1, exact. Published weights are used where a package brings them, seeded random ones elsewhere: a
network's time does not depend on its weights, the search's does, through what can be pruned. A run may be split:
rows that are there are kept. The site's page on backbones shows the table.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from features import open_backbone, photographs
from machine import describe

from fastspade import pyramid_knn

BACKBONES = (
    *("wide_resnet50_2", "resnet18", "resnet50", "efficientnet_lite0"),
    *("timm:resnet50.a1_in1k", "timm:convnext_tiny.in12k_ft_in1k", "timm:mobilenetv3_large_100.ra_in1k"),
    *("timm:swin_tiny_patch4_window7_224.ms_in1k",),
    *("timm:vit_small_patch14_dinov2.lvd142m", "timm:vit_base_patch14_dinov2.lvd142m"),
)
IMAGES, BATCH, ROUNDS = 50, 8, 7


def fastest_seconds(call: Callable[[], Any]) -> float:
    """The fastest of several rounds: what other work on the machine disturbs least."""
    call()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(name: str, pixels: torch.Tensor) -> dict[str, Any]:
    backbone, weights = open_backbone(name)
    batches = [backbone(part) for part in pixels.split(BATCH)]
    embeddings = torch.cat([batch[0] for batch in batches])
    levels = [torch.cat(level).contiguous() for level in zip(*(batch[1] for batch in batches), strict=True)]
    query, gallery = [level[:1] for level in levels], [level[1:] for level in levels]
    values = embeddings.shape[1] + sum(math.prod(level.shape[1:]) for level in levels)
    return {
        "weights": weights,
        "levels": [list(level.shape[1:]) for level in levels],
        "embedding": embeddings.shape[1],
        "bank_bytes_per_image": 4 * values,
        "network_ms": 1e3 * fastest_seconds(lambda: backbone(pixels[:BATCH])) / BATCH,
        "search_ms": 1e3 * fastest_seconds(lambda: pyramid_knn(query, gallery, 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out and arguments.out.exists() else {}
    pictures = np.stack(list(photographs("aligned", IMAGES + 1, 0)))
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    settings = {"images": IMAGES, "batch": BATCH, "rounds": ROUNDS, "pixels": 224, "threads": torch.get_num_threads()}
    for name in [name for name in arguments.only if name not in rows]:
        rows[name] = measure(name, pixels)
        print(name, rows[name], flush=True)
        if arguments.out:
            record = {"machine": describe("torchvision", "timm"), "settings": settings, "rows": rows}
            arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
