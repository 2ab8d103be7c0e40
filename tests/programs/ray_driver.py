"""`fastspade score --ray` with the tests' own network: a worker waits at its fourth image until its gate, a file, is there.

python ray_driver.py GATE score MODEL PATHS -o OUT --ray ...
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import torch
from tiny import TinyNet

import fastspade.ray.run
from fastspade.cli import main


class Gated(TinyNet):
    def __init__(self, gate: Path) -> None:
        super().__init__()
        self.gate, self.driver, self.seen = gate, os.getpid(), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += os.getpid() != self.driver
        while self.seen > 3 and not self.gate.exists():
            time.sleep(0.01)
        return super().forward(images)


if __name__ == "__main__":
    gate, *command = sys.argv[1:]
    fastspade.ray.run.score = partial(fastspade.ray.run.score, backbone=Gated(Path(gate)))
    sys.exit(main(command))
