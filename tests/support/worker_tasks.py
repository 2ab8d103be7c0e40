"""What worker processes run: in a module that spawned ones can import."""

from __future__ import annotations

import numpy as np
import torch
from tiny import TinyNet, picture
from torch.utils.data import Dataset

from fastspade import Spade, knn


class Pictures(Dataset):
    """Seeded pictures as tensors."""

    def __init__(self, first: int, count: int, search: bool = False) -> None:
        self.first, self.count, self.search = first, count, search

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> torch.Tensor:
        if self.search:  # a worker may use the engine too
            _, places = knn(torch.eye(40), torch.eye(40), 1)
            assert torch.equal(places[:, 0], torch.arange(40))
        return torch.from_numpy(np.array(picture(self.first + i))).permute(2, 0, 1)


def scores_of(path: str) -> list[float]:
    model = Spade.load(path, backbone=TinyNet(), device="cpu", progress=False)
    return model.score([picture(70), picture(71)]).image_scores.tolist()
