"""`fastspade score --ray`."""

from __future__ import annotations

import argparse
import sys

from fastspade.ray.run import score


def run(arguments: argparse.Namespace) -> int:
    """Score on a Ray cluster with the options of the command line."""
    done = score(
        arguments.images,
        arguments.model,
        output=arguments.output,
        concurrency=arguments.ray_workers,
        num_gpus=None if arguments.device is None else int(arguments.device.startswith("cuda")),
        batch_size=arguments.batch_size,
        images_per_part=arguments.images_per_part,
        num_workers=arguments.num_workers,
        max_pixels=arguments.max_pixels,
        skip_bad=arguments.skip_bad,
        threshold=arguments.threshold,
        pixel_threshold=arguments.pixel_threshold,
        image_column=arguments.image_column,
        name_column=arguments.name_column,
        weights=arguments.weights,
        progress=not arguments.quiet,
    )
    if done.unreadable:
        print(f"{done.unreadable} images could not be read; their rows say why", file=sys.stderr)
    resumed = f", {done.resumed} of them written before" if done.resumed else ""
    print(f"{done.output}: {done.images} images in {done.parts} parquet files{resumed}")
    return 0
