"""Features of which a few directions hold most, and devices to search them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from search_cases import Case, pyramid

STORED = Path(__file__).parents[2] / "benchmarks" / "real_features.npz"
# FASTSPADE_CUDA_PATH; shared memory of a block, multiprocessors, sm_90a.
DEVICES = {
    "sm80": ("sm80", (232448, 4)),
    "sm80_short_steps": ("sm80", (101376, 2)),
    "sm90a": ("sm90a", (232448, 4, True)),
}
Side = list[torch.Tensor]


def real(images: int) -> tuple[Side, Side]:
    """A corner of a photograph's features, 16 x 16 pixels, and of others of the same object."""
    stored = np.load(STORED)

    def level(side: str, i: int) -> torch.Tensor:
        low, high = (stored[f"{side}{i}_{part}"].astype(np.uint16) for part in ("low", "high"))
        return torch.from_numpy((low | high << 8).view(np.float16)).float()[:images, :, : 16 >> i, : 16 >> i].contiguous()

    query, gallery = ([level(side, i) for i in range(3)] for side in ("query", "gallery"))
    return query, gallery


def random(levels, images: int, seed: int) -> Side:
    return pyramid(Case("random", levels), images, seed)


def low_rank(levels, images: int) -> tuple[Side, Side]:
    """Random features whose variance falls with the square of the direction's number."""

    def side(count: int, seed: int) -> Side:
        found = []
        for i, level in enumerate(random(levels, count, seed)):
            channels = level.shape[1]
            basis = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(i)))[0]
            found.append(torch.einsum("dc,nchw->ndhw", basis / torch.arange(1, channels + 1), level).contiguous())
        return found

    return side(1, 1), side(images, 2)


def copies() -> tuple[Side, Side]:
    """An image, and a gallery of nearly equal ones of which the last is the image itself. A fifth of the variance lies beyond
    the 31 directions, where what is nearest differs by a thousandth."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.cat([torch.ones(24), torch.full((136,), (24 / 136 / 4) ** 0.5)])
    basis = torch.linalg.qr(torch.randn(160, 160, generator=generator))[0] * weights
    image = torch.einsum("dc,nchw->ndhw", basis, torch.randn(1, 160, 13, 12, generator=generator))
    noise = torch.einsum("dc,nchw->ndhw", basis, torch.randn(4, 160, 13, 12, generator=generator))
    return [image.contiguous()], [torch.cat([image + 0.01 * noise, image]).contiguous()]
