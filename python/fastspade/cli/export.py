"""`fastspade export`: a fitted model as one torch.export program."""

from __future__ import annotations

import argparse

from fastspade.nn import export
from fastspade.spade import Spade


def run(arguments: argparse.Namespace) -> int:
    model = Spade.load(arguments.model, device=arguments.device, weights=arguments.weights)
    export(model, arguments.output)
    size = "{} x {}".format(*model.input_size)
    print(
        f"{arguments.output}: images (B, 3, {size}) in [0, 1] -> image scores (B,), anomaly maps (B, {size}); on {model.device}"
    )
    return 0
