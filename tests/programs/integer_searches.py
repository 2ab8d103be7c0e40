"""Searches that the CPU engine does in int8 or int16 first, each beside the float64 reference; prints what was bounded how.

FASTSPADE_SIMD=generic_integer python tests/programs/integer_searches.py      # ends with status 3 where it is not to be had
"""

from __future__ import annotations

import json
import os
import sys

import torch

from fastspade import build_info
from fastspade.search import reference
from fastspade.search.cpu import search_cpu

CHANNELS, QUERIES, GALLERY = 1024, 70, 3600  # four chunks of the engine's


def vectors(kind: str, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(count, CHANNELS, generator=generator)
    if kind == "clusters":  # members differ by less than one byte can tell
        centres = torch.randn(4, CHANNELS, generator=torch.Generator().manual_seed(9))
        found = centres[torch.randint(4, (count,), generator=generator)] + 0.002 * found
    elif kind == "sparse":
        found = found.relu() ** 4
    elif kind == "outliers":  # one channel far larger than the rest, and some vectors all alike
        found[:, 3] *= 1000.0
        found[::7] = 0.0
    elif kind == "small":
        found *= 1e-20
    return found


def check_vectors(kind: str, kappa: int) -> dict[str, int]:
    query, gallery = vectors(kind, QUERIES, 1), vectors(kind, GALLERY, 2)
    distances, indices, counts = search_cpu([query.t()[None, :, None]], [gallery.t()[None, :, None]], kappa, None, 0)
    direct = torch.cdist(query.double(), gallery.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    places = direct.float().argsort(dim=1, stable=True)[:, :kappa]  # what rounds to one float32 is a tie
    assert torch.equal(indices.view_as(places), places), kind
    assert torch.allclose(distances.view_as(places).double(), direct.gather(1, places), rtol=1e-5, atol=0), kind
    return counts


def check_pyramid(upsample: int, kappa: int) -> dict[str, int]:
    generator = torch.Generator().manual_seed(5)
    shapes = ((24, 12, 12), (16, 6, 6))
    query, gallery = ([torch.randn(n, *shape, generator=generator) for shape in shapes] for n in (1, 4))
    distances, indices, counts = search_cpu(query, gallery, kappa, None, upsample)
    wanted, places = reference.pyramid_knn(query, gallery, kappa, upsample=("nearest", "bilinear")[upsample])
    assert torch.equal(indices.view_as(places), places)
    assert torch.allclose(distances.view_as(wanted).double(), wanted, rtol=1e-5)
    return counts


if __name__ == "__main__":
    if build_info()["simd"] != os.environ.get("FASTSPADE_SIMD"):
        sys.exit(3)
    cases = {
        f"{kind} {kappa}": check_vectors(kind, kappa)
        for kind in ("plain", "clusters", "sparse", "outliers", "small")
        for kappa in (1, 9)
    }
    cases |= {f"pyramid {upsample} {kappa}": check_pyramid(upsample, kappa) for upsample in (0, 1) for kappa in (1, 9)}
    json.dump(cases, sys.stdout)
