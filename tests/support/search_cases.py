"""Shapes and feature generators that the search tests and the benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Case:
    """A pyramid search: level shapes (C, H, W) finest first, image counts, kappa, sampling, and how many images a query sees."""

    name: str
    levels: tuple[tuple[int, int, int], ...]
    queries: int = 1
    images: int = 2
    kappa: int = 1
    upsample: str = "bilinear"
    chosen: int | None = None


CASES = [
    Case("one_pixel", ((3, 1, 1),)),
    Case("one_level", ((5, 7, 9),), images=3, kappa=3),
    Case("two_levels", ((8, 12, 10), (6, 6, 5)), kappa=2),
    Case("paper_like", ((16, 16, 16), (24, 8, 8), (40, 4, 4)), queries=2, images=4, kappa=3, chosen=3),
    Case("paper_like_nearest", ((16, 16, 16), (24, 8, 8), (40, 4, 4)), queries=2, images=4, upsample="nearest", chosen=2),
    Case("odd_ratio", ((9, 37, 23), (17, 19, 12), (33, 5, 3)), images=2, kappa=5),
    Case("odd_ratio_nearest", ((9, 37, 23), (17, 19, 12), (33, 5, 3)), images=2, kappa=5, upsample="nearest"),
    Case("same_resolution", ((4, 9, 11), (7, 9, 11), (12, 4, 5), (3, 4, 5)), kappa=4),
    Case("single_coarse_pixel", ((6, 10, 7), (130, 1, 1)), images=2, kappa=1),
    Case("one_row", ((6, 1, 40), (5, 1, 13)), images=2, kappa=2),
    Case("one_column", ((6, 33, 1), (5, 7, 1)), images=2, kappa=2),
    Case("many_neighbours", ((5, 8, 9), (4, 4, 4)), images=3, kappa=64),
    Case("all_neighbours", ((3, 5, 6), (2, 3, 3)), images=2, kappa=60),
    Case("long_channels", ((300, 6, 5), (259, 3, 2)), images=2, kappa=2),
]


def pyramid(case: Case, images: int, seed: int, dtype: torch.dtype = torch.float32, mean: float = 0.0, spread: float = 1.0):
    """Random features of a case: a list of (images, C, H, W) tensors."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(images, c, h, w, generator=generator) * spread + mean).to(dtype) for c, h, w in case.levels]


def smooth(case: Case, images: int, seed: int) -> list[torch.Tensor]:
    """Features that vary slowly over the image, as a network's do: there the coarse levels rule most pairs out."""
    generator = torch.Generator().manual_seed(seed)
    return [
        F.interpolate(torch.randn(images, c, 3, 3, generator=generator), size=(h, w), mode="bilinear", align_corners=True)
        for c, h, w in case.levels
    ]


def nearly_equal(level: torch.Tensor) -> torch.Tensor:
    """The same features, each off by less than 16 bits can tell."""
    return level * (1 + 1e-6 * torch.randn(level.shape, generator=torch.Generator().manual_seed(11)))


def gallery_index(case: Case, seed: int = 7) -> torch.Tensor | None:
    """Which gallery images each query sees, in no particular order; None where it sees all."""
    if case.chosen is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(case.images, generator=generator)[: case.chosen] for _ in range(case.queries)])
