"""The command line: fastspade fit | score | demo | info."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fastspade._version import __version__
from fastspade.errors import FastspadeError, InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0; 2 after an error, told in one line; 130 after Ctrl-C."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except FastspadeError as error:
        print(f"fastspade: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"fastspade: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastspade: interrupted; nothing was written", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastspade", description="Find and outline defects in photographs, having seen only good ones (SPADE)."
    )
    parser.add_argument("--version", action="version", version=f"fastspade {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    fit = commands.add_parser("fit", help="learn what good looks like from a folder of normal images")
    fit.add_argument("images", nargs="+", metavar="DIR", help="folder, file or glob of normal images")
    fit.add_argument("-o", "--output", required=True, metavar="MODEL", help="model file to write (.safetensors)")
    fit.add_argument("--backbone", default="wide_resnet50_2", help="wide_resnet50_2 (default), resnet18, resnet50, efficientnet_lite0")
    fit.add_argument("--weights", metavar="FILE", help="local state-dict file instead of the published weights")
    fit.add_argument("--layers", nargs="+", help="modules whose outputs form the pyramid, finest first")
    fit.add_argument("--k", type=int, default=50, help="normal images each test image is compared with (default 50)")
    fit.add_argument("--k-image", type=int, help="how many of them make the image score (default: k)")
    fit.add_argument("--kappa", type=int, default=1, help="nearest pixels a pixel's score averages over (default 1)")
    fit.add_argument("--upsample", choices=["bilinear", "nearest"], default="bilinear")
    fit.add_argument("--sigma", type=float, default=4.0, help="Gaussian smoothing of the map, in pixels (default 4)")
    fit.add_argument("--image-score", choices=["knn", "max", "top1%"], default="knn")
    fit.add_argument("--resize", type=int, default=256)
    fit.add_argument("--crop", type=int, default=224)
    fit.add_argument("--keep-crop", action="store_true", help="maps cover the centre crop alone")
    _add_running(fit)
    fit.set_defaults(run=run_fit)

    score = commands.add_parser("score", help="score images with a fitted model")
    score.add_argument("model", metavar="MODEL")
    score.add_argument("images", nargs="+", metavar="PATHS", help="images, folders or globs")
    score.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write; it must not hold files yet")
    score.add_argument("--weights", metavar="FILE", help="local state-dict file the model was fitted with")
    _add_running(score)
    score.set_defaults(run=run_score)

    demo = commands.add_parser("demo", help="the whole job on real photographs, offline (needs the extra 'demo')")
    demo.add_argument("-o", "--out", default="fastspade-demo", help="folder for the pictures (default fastspade-demo)")
    demo.add_argument("--seed", type=int, default=0, help="of the crops and the defects (default 0)")
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    demo.set_defaults(run=run_demo)

    info = commands.add_parser("info", help="version, SIMD level, CUDA architectures, threads")
    info.set_defaults(run=run_info)
    return parser


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu or cuda (default: cuda where this build and machine have it)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-workers", type=int, default=2, help="image decoding threads (default 2)")
    parser.add_argument("--skip-bad", action="store_true", help="leave unreadable images out instead of stopping")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run_fit(arguments: argparse.Namespace) -> int:
    from fastspade.spade import Spade

    output = Path(arguments.output)
    if not output.parent.is_dir():
        raise InputError(f"output: the folder {output.parent} does not exist")
    model = Spade(
        arguments.backbone,
        k=arguments.k,
        k_image=arguments.k_image,
        kappa=arguments.kappa,
        layers=arguments.layers,
        upsample=arguments.upsample,
        sigma=arguments.sigma,
        image_score=arguments.image_score,
        resize=arguments.resize,
        crop=arguments.crop,
        keep_crop=arguments.keep_crop,
        device=arguments.device,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        progress=not arguments.quiet,
        weights=arguments.weights,
    )
    model.fit(arguments.images, skip_bad=arguments.skip_bad)
    model.save(output)
    print(f"{output}: {len(model.bank)} normal images, {output.stat().st_size / 2**20:.1f} MiB")
    for name, error in model.skipped:
        print(f"skipped {name}: {error}", file=sys.stderr)
    return 0


def run_score(arguments: argparse.Namespace) -> int:
    from fastspade.spade import Spade

    output = Path(arguments.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output: {output} exists and is not an empty folder; name a new one")
    if not output.absolute().parent.is_dir():
        raise InputError(f"output: the folder {output.absolute().parent} does not exist")
    model = Spade.load(
        arguments.model,
        device=arguments.device,
        weights=arguments.weights,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        progress=not arguments.quiet,
    )
    # Everything is written beside the target and renamed at the end: a failure leaves nothing half-written.
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.absolute().parent))
    try:
        count = _write_scores(model, arguments, aside)
        os.chmod(aside, 0o777 & ~_umask())
        if output.exists():
            output.rmdir()
        os.replace(aside, output)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for name, error in model.skipped:
        print(f"skipped {name}: {error}", file=sys.stderr)
    print(f"{output}: scores.csv, {count} heat maps, {count} overlays")
    return 0


def _write_scores(model, arguments: argparse.Namespace, folder: Path) -> int:
    """Two passes: maps go to disk first, so that all pictures share one colour scale without all maps in memory."""
    import numpy as np

    from fastspade import maps

    rows, low, high = [], float("inf"), float("-inf")
    raw = folder / ".maps"
    raw.mkdir()
    for i, image in enumerate(model.score_batches(arguments.images, skip_bad=arguments.skip_bad)):
        np.savez(raw / f"{i}.npz", map=image.anomaly_map, picture=np.asarray(image.picture()))
        low, high = min(low, float(image.anomaly_map.min())), max(high, float(image.anomaly_map.max()))
        rows.append((image.name, image.score, float(image.anomaly_map.max())))
    stems = _unique_stems([name for name, _, _ in rows])
    (folder / "heatmaps").mkdir()
    (folder / "overlays").mkdir()
    from PIL import Image

    for i, stem in enumerate(stems):
        with np.load(raw / f"{i}.npz") as saved:
            Image.fromarray(maps.heatmap(saved["map"], vmin=low, vmax=high)).save(folder / "heatmaps" / f"{stem}.png")
            maps.overlay(saved["picture"], saved["map"], vmin=low, vmax=high).save(folder / "overlays" / f"{stem}.png")
    shutil.rmtree(raw)
    with open(folder / "scores.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "score", "map_max", "heatmap", "overlay"])
        for (name, score, peak), stem in zip(rows, stems, strict=True):
            writer.writerow([name, repr(score), repr(peak), f"heatmaps/{stem}.png", f"overlays/{stem}.png"])
    return len(rows)


def _unique_stems(names: Sequence[str]) -> list[str]:
    """A file name an image: its stem, numbered where several images share it."""
    used: set[str] = set()
    stems = []
    for name in names:
        stem = base = Path(name).stem or "image"
        number = 2
        while stem in used:
            stem, number = f"{base}_{number}", number + 1
        used.add(stem)
        stems.append(stem)
    return stems


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def run_demo(arguments: argparse.Namespace) -> int:
    from fastspade.demo import run_demo as run

    run(Path(arguments.out), seed=arguments.seed, progress=not arguments.quiet)
    return 0


def run_info(arguments: argparse.Namespace) -> int:
    from fastspade.info import build_info

    print(json.dumps(build_info(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
