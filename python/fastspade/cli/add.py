"""`fastspade add`: more normal images in a model."""

from __future__ import annotations

import argparse

from fastspade.cli.model import holding, keep, load_model, tell_skipped


def run(arguments: argparse.Namespace) -> int:
    with holding(arguments.model):
        model = load_model(arguments)
        ids = model.add(arguments.images, skip_bad=arguments.skip_bad)
        print(f"added {len(ids)} images, ids {ids[0]} to {ids[-1]}")
        tell_skipped(model.skipped)
        return keep(arguments, model)
