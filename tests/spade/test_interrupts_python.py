"""Ctrl-C while Python code calls Spade: KeyboardInterrupt reaches the caller, and the object is as it was before."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import picture, tiny_spade
from torch.utils.data import DataLoader, Dataset

pytestmark = pytest.mark.slow  # interrupts many processes

SCRIPT = Path(__file__).parents[1] / "programs" / "interrupted_python.py"
MOMENTS = [
    ("fit", "memory", "read"), ("fit", "folder", "forward"),
    ("score", "memory", "forward"), ("score", "folder", "read"), ("score", "parts", "gather"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kept", "moment"), MOMENTS)
def test_ctrl_c_reaches_the_caller_and_changes_nothing(tmp_path, call, kept, moment, record_fault):
    run, pipe = [sys.executable, str(SCRIPT), call, kept, moment, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(run, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        reached = process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert reached and process.returncode == 0, errors
    assert json.loads(printed) == {"raised": "KeyboardInterrupt", "unchanged": True, "same bits": True}
    record_fault(
        f"Ctrl-C in the middle of `Spade.{call}`", 1,
        "KeyboardInterrupt; no thread and nothing half-written is left, and the object scores the same bits",
    )  # fmt: skip


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
