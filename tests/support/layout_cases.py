"""Small searches that reach every layout which the CUDA engine's plan can choose, on every kind of device.

A layout is a search kernel, the queries of a tile, the channels of a step, the stages of the pipeline, and whether the lists
of candidates are in shared memory. The plan chooses by shared memory, which wide coarse rows (rings hold whole rows) and
many neighbours use up, by the number of query pixels, and tall tiles only where every multiprocessor gets a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from search_cases import Case, pyramid

# Search kernel, a block's shared memory, and multiprocessors of devices that have it.
DEVICES = {
    "99k": ("sm80", 101376, (58, 82, 128, 142)),  # L4, RTX 3090, RTX 4090, RTX 6000 Ada
    "163k": ("sm80", 166912, (108,)),  # A100
    "227k": ("sm80", 232448, (114, 132, 148)),  # H100 PCIe, H100 and H200, B200
    "sm90a": ("sm90a", 232448, (114, 132)),
}


@dataclass(frozen=True)
class LayoutCase:
    """Finest images of 2 x `width` pixels and `coarse` levels of one row against query images of `queries` x 1 pixels.

    devices: of DEVICES, where it reaches a layout that no other case here does; benchmarks/gpu_session.sh runs it there under
    sanitizers. test_cuda_layouts.py checks that so all layouts are reached.

    fills: with as many gallery images as give every multiprocessor a block.
    """

    devices: str
    queries: int
    width: int
    coarse: int
    kappa: int
    fills: bool = False

    @property
    def name(self) -> str:
        return f"{self.queries}_queries-{self.coarse}_rings_of_{self.width}-kappa_{self.kappa}-{self.devices.replace(' ', '_')}"

    @property
    def on_sm90a(self) -> bool:
        """Whether the sm90a search can hold its rings on chip; asked for by name, it refuses the others."""
        return self.coarse * self.width < 600

    def sides(self, multiprocessors: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Query and gallery, random."""
        queries, images = (2, max(3, -(-multiprocessors // 2))) if self.fills else (1, 2)
        # Three steps of 64 channels per finest tile: more than two stages hold.
        asked = ((130, 1, self.queries), *[(8, 1, self.queries // 2)] * self.coarse)
        stored = ((130, 2, self.width), *((8, 1, self.width - g) for g in range(self.coarse)))
        return pyramid(Case("query", asked), queries, seed=1), pyramid(Case("gallery", stored), images, seed=2)


# A tile has 128, 64 or 32 queries, or on sm_90a 128 or 96. The last one of an image is ragged.
LAYOUT_CASES = [
    LayoutCase("99k 163k 227k sm90a", 20, 70, 0, 1),
    LayoutCase("99k 163k 227k", 20, 70, 0, 70),
    LayoutCase("99k", 20, 60, 1, 64),
    LayoutCase("163k 227k", 20, 680, 3, 64),
    LayoutCase("99k", 40, 70, 0, 1, fills=True),
    LayoutCase("99k 163k 227k", 40, 70, 0, 70, fills=True),
    LayoutCase("99k 163k 227k", 40, 20, 1, 50, fills=True),
    LayoutCase("99k", 40, 40, 3, 70, fills=True),
    LayoutCase("163k", 40, 50, 3, 64, fills=True),
    LayoutCase("227k", 40, 240, 3, 57, fills=True),
    LayoutCase("227k", 40, 400, 3, 70, fills=True),
    LayoutCase("99k 163k 227k", 100, 70, 0, 1, fills=True),
    LayoutCase("99k 163k 227k", 100, 70, 0, 70, fills=True),
    LayoutCase("163k", 100, 20, 1, 32, fills=True),
    LayoutCase("227k", 100, 20, 1, 64, fills=True),
    LayoutCase("163k", 100, 80, 3, 70, fills=True),
    LayoutCase("163k 227k", 100, 220, 3, 70, fills=True),
    LayoutCase("sm90a", 140, 20, 1, 50),
    LayoutCase("sm90a", 140, 60, 1, 64),
    LayoutCase("sm90a", 140, 60, 3, 64),
    LayoutCase("sm90a", 140, 110, 3, 57),
    LayoutCase("sm90a", 140, 70, 0, 100),
    LayoutCase("sm90a", 140, 180, 3, 50),
]
