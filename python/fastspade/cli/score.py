"""`fastspade score`: a table and pictures of every image, or parquet files where it runs on a Ray cluster."""

from __future__ import annotations

import argparse

from fastspade.cli.model import load_model, tell_skipped
from fastspade.cli.score_files import parse_kinds, write_scores
from fastspade.errors import InputError
from fastspade.files.atomic import check_output, written_at_once
from fastspade.files.home import user_path
from fastspade.files.progress import tell
from fastspade.images.further import Further


def run(arguments: argparse.Namespace) -> int:
    if arguments.ray:
        return _on_ray(arguments)
    output = user_path(arguments.output)
    check_output(output)
    kinds = parse_kinds(arguments.save)
    model = load_model(arguments)
    if "masks" in kinds and model.threshold is None and arguments.pixel_threshold is None:
        raise InputError("save: masks need a threshold, and the model has none; give --pixel-threshold")
    with written_at_once(output) as folder:
        images = model.score_batches(
            arguments.images,
            skip_bad=arguments.skip_bad,
            threshold=arguments.threshold,
            pixel_threshold=arguments.pixel_threshold,
        )
        count = write_scores(
            images,
            folder,
            kinds,
            map_format=arguments.map_format,
            colorbar=arguments.colorbar,
            threads=max(1, arguments.num_workers),
        )
    tell_skipped(model.skipped)
    names = [kind.replace("heat", "heat ") for kind in kinds]
    written = "".join(f", {count} {name if count != 1 else name.removesuffix('s')}" for name in names)
    print(f"{output}: scores.csv{written}")
    return 0


def _on_ray(arguments: argparse.Namespace) -> int:
    from fastspade.ray.run import score

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
        tell(f"{done.unreadable} images could not be read; their rows say why")
    if done.further:
        tell(str(Further(done.further)))
    resumed = f", {done.resumed} of them written before" if done.resumed else ""
    print(f"{done.output}: {done.images} images in {done.parts} parquet files{resumed}")
    return 0
