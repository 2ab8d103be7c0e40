"""Bounds rule pairs out and change nothing: features smooth enough that most blocks and cells of a gallery image are skipped."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from engine_outputs import SIMD

PROGRAM = """
import sys
import torch
import torch.nn.functional as F
from fastspade._engine import simd
from fastspade.search.cpu import search_cpu

if simd() != sys.argv[1]:
    sys.exit(3)
generator = torch.Generator().manual_seed(0)

def smooth(images, channels, height, width, noise):
    scene = torch.randn(1, channels, 5, 5, generator=torch.Generator().manual_seed(channels))
    scene = F.interpolate(scene, size=(height, width), mode="bicubic")
    return scene + noise * torch.randn(images, channels, height, width, generator=generator)

SHAPES = [
    ((24, 28, 28), (9, 14, 14), (12, 7, 7)),
    ((5, 27, 30), (9, 11, 13)),
    ((30, 26, 21), (4, 13, 10), (3, 9, 9), (8, 3, 2), (6, 1, 1)),
    ((8, 40, 17), (8, 5, 17)),
]
for shapes in SHAPES:
    query, gallery = ([smooth(n, *shape, 0.02) for shape in shapes] for n in (1, 8))
    for upsample in (0, 1):
        for kappa, radius in ((1, (-1, -1)), (1, (3, 5)), (6, (-1, -1)), (6, (40, 2))):
            found = search_cpu(query, gallery, kappa, None, upsample, True, radius)
            whole = search_cpu(query, gallery, kappa, None, upsample, False, radius)
            assert torch.equal(found[0], whole[0]) and torch.equal(found[1], whole[1]), (shapes, upsample, kappa, radius)
            if kappa == 1:
                assert found[2]["fine_pairs"] < 0.2 * whole[2]["fine_pairs"], (shapes, found[2], whole[2])
print("ok")
"""


@pytest.mark.slow  # every pair of four searches, once more without bounds
@pytest.mark.parametrize("simd", SIMD)
def test_what_bounds_rule_out_is_never_an_answer(simd):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, simd],
        env={**os.environ, "FASTSPADE_SIMD": simd},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 3:
        pytest.skip(f"this processor has no {simd}")
    assert run.stdout.strip() == "ok", run.stderr
