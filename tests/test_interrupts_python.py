"""Ctrl-C while Python code calls Spade: KeyboardInterrupt reaches the caller, and the object is as it was before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import picture, tiny_spade
from torch.utils.data import DataLoader, Dataset


def test_ctrl_c_in_python_leaves_the_old_model_as_it_was(tmp_path):
    path = tmp_path / "model"
    model = tiny_spade().fit([picture(seed) for seed in range(4)], path=path)
    before = model.score([picture(9)]).image_scores
    files = sorted(entry.name for entry in path.iterdir())

    with pytest.raises(KeyboardInterrupt):
        model.add(DataLoader(Interrupting(), batch_size=2))
    assert sorted(entry.name for entry in path.iterdir()) == files and len(model.bank) == 4
    assert np.array_equal(model.score([picture(9)]).image_scores, before)


class Interrupting(Dataset):
    """Somebody presses Ctrl-C while the seventh picture is read."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, i: int) -> torch.Tensor:
        if i == 6:
            raise KeyboardInterrupt
        return torch.from_numpy(np.array(picture(20 + i))).permute(2, 0, 1)
