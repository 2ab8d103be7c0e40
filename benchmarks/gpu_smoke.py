"""Does the search answer as float64 does? A dozen small searches on one path, in seconds: prints PASS or the first wrong value.

FASTSPADE_CUDA_PATH=sm90a python benchmarks/gpu_smoke.py
python benchmarks/gpu_smoke.py --device cpu
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator

import torch

from fastspade import build_info, knn, pyramid_knn
from fastspade.errors import InputError
from fastspade.info import cuda_devices
from fastspade.search import PreparedGallery, reference

FINE, ODD, FLAT = ((24, 20, 20), (40, 10, 10), (72, 5, 5)), ((7, 13, 11), (3, 6, 5)), ((130, 12, 12),)
Case = tuple[str, Callable[[], list[torch.Tensor]]]  # a name; distances and indices found, then those that are right


def pyramid(shapes: tuple[tuple[int, int, int], ...], images: int, seed: int, scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, *shape, generator=generator) * scale for shape in shapes]


def cases(device: torch.device) -> Iterator[Case]:
    """Searches on `device`, and float64's."""

    def check(name: str, query: list[torch.Tensor], gallery: list[torch.Tensor], kappa: int, **options: object) -> Case:
        there = [[level.to(device) for level in side] for side in (query, gallery)]
        upsample = str(options.get("upsample", "bilinear"))
        index = options.pop("gallery_index", None)
        if options.pop("streamed", False):
            there[1] = gallery
        elif options.pop("prepared", False):
            there[1] = PreparedGallery(there[1], upsample=upsample)
        placed = None if index is None else index.to(device)

        def answers() -> list[torch.Tensor]:
            found = pyramid_knn(*there, kappa, gallery_index=placed, **options)
            return [*found, *reference.pyramid_knn(query, gallery, kappa, gallery_index=index, upsample=upsample)]

        return name, answers

    query, gallery = pyramid(FINE, 1, 1), pyramid(FINE, 3, 2)
    yield check("three levels", query, gallery, 1)
    yield check("nearest upsampling", query, gallery, 1, upsample="nearest")
    yield check("kappa 5, prepared", query, gallery, 5, prepared=True)
    yield check("kappa 70, lists off chip", query, gallery, 70)
    yield check("batch of 4", pyramid(FINE, 4, 3), gallery, 2)
    yield check("ragged shapes", pyramid(ODD, 2, 4), pyramid(ODD, 5, 5), 3)
    yield check("one level", pyramid(FLAT, 2, 6), pyramid(FLAT, 2, 7), 4)
    yield check("chosen images", query, gallery, 2, gallery_index=torch.tensor([[2, 0]]))
    yield check("float16", [level.half() for level in query], [level.half() for level in gallery], 3)
    yield check("bfloat16", [level.bfloat16() for level in query], [level.bfloat16() for level in gallery], 3)
    large = [pyramid(FINE, n, seed, 1e4) for n, seed in ((1, 8), (2, 9))]
    yield check("large values", *large, 2)
    falling = [[level / torch.arange(1.0, 131)[:, None, None] for level in pyramid(FLAT, n, 11 + n)] for n in (1, 3)]
    yield check("a few directions hold most", *falling, 3)  # projections are searched
    dark = [[level.clone() for level in side] for side in (query, gallery)]
    for level in (level for side in dark for level in side):
        level[:, :, : level.shape[2] // 2] = 0
    yield check("half black", *dark, 5)
    yield check("gallery in host memory", query, gallery, 2, streamed=True)
    vectors = torch.randn(300, 33, generator=torch.Generator().manual_seed(10))
    sides = vectors[:50], vectors[50:]
    yield "vectors", lambda: [*knn(*(side.to(device) for side in sides), 3), *reference.knn(*sides, 3)]


def first_wrong(distances: torch.Tensor, indices: torch.Tensor, right: torch.Tensor, right_indices: torch.Tensor) -> str | None:
    """Where an answer differs from float64's rounded to float32: an index, or a distance by more than its last bit."""
    distances, indices = distances.cpu(), indices.cpu()
    off = (distances.double() - right).abs() > right.abs() * 2.0**-23
    wrong = ((indices != right_indices) | off).nonzero()
    if len(wrong) == 0:
        return None
    where = tuple(wrong[0].tolist())
    text = f"{len(wrong)} of {distances.numel()} differ; at {where} "
    return (
        text + f"found pixel {indices[where]} at {distances[where]:.9g}, float64 has {right_indices[where]} at {right[where]:.9g}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    device, start = torch.device(parser.parse_args().device), time.perf_counter()
    where = os.environ.get("FASTSPADE_CUDA_PATH") or "auto" if device.type == "cuda" else "cpu"
    print(build_info(), cuda_devices())
    passed = 0
    for name, answers in cases(device):
        try:
            difference = first_wrong(*answers())
        except InputError as error:
            if "search was asked for" not in str(error):
                raise
            print(f"{name}: not on this path, {error}")
            continue
        if difference is not None:
            print(f"FAIL {where}, {name}: {difference}")
            return 1
        passed += 1
    if passed < 12:
        print(f"FAIL {where}: only {passed} cases ran")
        return 1
    print(f"PASS {where}: {passed} cases in {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
