"""Unsmoothed maps of a category's normal images, each matched against all the others, and of its test images; kept in a folder,
so that image scores and thresholds can be compared without another search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fastspade import Spade
from fastspade.evaluate.category import Category
from fastspade.evaluate.dataset import read_dataset
from fastspade.maps.process import gaussian_matrix
from fastspade.spade.leave_one_out import judged, left_out_scores
from fastspade.spade.matching import Matches
from fastspade.spade.relative import by_cell

SIGMA = 4.0  # of the default


@dataclass(frozen=True)
class LeftOut:
    """normal (N, H, W), test (M, H, W): maps. normal_distances (N, K), test_distances (M, K): of stage 1. kinds (M,): "good" or of
    the defect. grid: (h, w), cells of a map."""

    name: str
    normal: torch.Tensor
    test: torch.Tensor
    normal_distances: torch.Tensor
    test_distances: torch.Tensor
    kinds: np.ndarray
    grid: tuple[int, int]

    @property
    def defect(self) -> np.ndarray:
        return self.kinds != "good"

    def cells(self, sigma: float = SIGMA) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps by cell, of normal and of test images, smoothed by so many pixels."""
        return by_cell(smoothed(self.normal, sigma), self.grid), by_cell(smoothed(self.test, sigma), self.grid)


def smoothed(maps: torch.Tensor, sigma: float = SIGMA) -> torch.Tensor:
    rows, columns = (gaussian_matrix(side, sigma) for side in maps.shape[-2:])
    return rows @ (maps @ columns.T)


def read(datasets: list[str], backbone: str, cache: Path, k: int = 50) -> list[LeftOut]:
    """Of every category of DATASET[:LAYOUT]: from the folder, or else made and put there. k: as of Spade."""
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    for text in datasets:
        root, _, layout = text.partition(":")
        for category in read_dataset(root, layout or "mvtec"):
            file = cache / f"{category.name}-{k}.npz"
            if not file.exists():
                np.savez(file, **matched(category, backbone, k))
                print(f"{category.name}: {len(category.train)} normal images, {len(category.test)} test images", flush=True)
            kept = np.load(file)
            tensors = (torch.from_numpy(kept[name]) for name in ("normal", "test", "normal_distances", "test_distances"))
            found.append(LeftOut(category.name, *tensors, kept["kinds"], tuple(kept["grid"].tolist())))
    return found


def matched(category: Category, backbone: str, k: int) -> dict[str, np.ndarray]:
    model = Spade(backbone, device="cpu", progress=False, keep_crop=True, image_score="max", sigma=0, k=k)
    bank = model.fit([str(path) for path in category.train]).fitted_bank().snapshot
    matches: list[Matches] = []
    left_out_scores(model, bank, judged(model, bank), matches.append)
    result = model.score([str(image.path) for image in category.test])
    return {
        "normal": torch.cat([one.smoothed for one in matches]).numpy(),
        "test": np.stack(result.anomaly_maps),
        "normal_distances": torch.cat([one.distances for one in matches]).numpy(),
        "test_distances": np.asarray(result.neighbor_distances),
        "kinds": np.array([image.kind if image.defect else "good" for image in category.test]),
        "grid": np.array(matches[0].nearest.shape[-2:]),
    }
