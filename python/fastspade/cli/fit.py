"""`fastspade fit`: normal images into a model file or folder, with a threshold."""

from __future__ import annotations

import argparse

from fastspade import checks
from fastspade.cli.model import describe, tell_skipped
from fastspade.cli.parser import options_of
from fastspade.errors import InputError
from fastspade.files.home import user_path
from fastspade.files.progress import tell
from fastspade.spade import Spade
from fastspade.spade.threshold import percent


def run(arguments: argparse.Namespace) -> int:
    output = user_path(arguments.output)
    if not output.parent.is_dir():
        raise InputError(f"output: the folder {output.parent} does not exist")
    checks.share("target-fpr", arguments.target_fpr)
    checks.share("pixel-target-fpr", arguments.pixel_target_fpr)
    model = Spade(arguments.backbone, **options_of(arguments))
    model.fit(arguments.images, skip_bad=arguments.skip_bad, path=None if output.suffix == ".safetensors" else output)
    if not arguments.no_threshold and model.bank is not None and len(model.bank) > 1:
        model.calibrate(arguments.target_fpr, arguments.pixel_target_fpr)
    model.save(output)
    print(describe(output, model))
    if model.threshold is not None:
        known, (low, high) = model.threshold, map(percent, model.threshold.false_alarm_range())
        print(
            f"threshold: image score {known.image:.6g}, map {known.pixel:.6g}; {low} to {high} of new good images will be above it"
        )
    elif not arguments.no_threshold:
        tell("no threshold: calibrating one needs at least 2 normal images")
    tell_skipped(model.skipped)
    return 0
