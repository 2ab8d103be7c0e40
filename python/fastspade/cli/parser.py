"""The arguments of every command. Those that are options of a Spade come from `Options`, with their defaults and help."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from fastspade._version import __version__
from fastspade.spade.options import BACKBONE_HELP, DEFAULT_BACKBONE, DINO, PRESETS, Options, names

RUNNING = ("device", "batch_size", "num_workers", "max_pixels")
MODEL = tuple(name for name in names("network", "model") if name not in ("keep_crop", "storage_dtype"))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastspade", description="Find and outline defects in photographs, having seen only good ones (SPADE)."
    )
    parser.add_argument("--version", action="version", version=f"fastspade {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    fit = commands.add_parser("fit", help="learn what good looks like from a folder of normal images")
    fit.add_argument("images", nargs="+", metavar="DIR", help="folder, file or glob of normal images")
    fit.add_argument("-o", "--output", required=True, metavar="MODEL", help="model to write: a file (.safetensors) or a folder")
    _add_backbone(fit)
    _add_options(fit, (*MODEL, "keep_crop", "storage_dtype"))
    _add_rates(fit)
    _add_no_threshold(fit)
    _add_skip_bad(fit)
    _add_running(fit, (*RUNNING, "memory_limit"))
    fit.set_defaults(command="fit")

    add = commands.add_parser("add", help="add normal images to a model, without computing the others' features again")
    add.add_argument("model", metavar="MODEL")
    add.add_argument("images", nargs="+", metavar="DIR", help="folder, file or glob of normal images")
    _add_skip_bad(add)
    remove = commands.add_parser("remove", help="take normal images out of a model")
    remove.add_argument("model", metavar="MODEL")
    remove.add_argument("images", nargs="+", metavar="ID", help="ids, or names as they were given to fit or add")
    for change, command in ((add, "add"), (remove, "remove")):
        change.add_argument("--weights", metavar="FILE", help="local state-dict file the model was fitted with")
        change.add_argument(
            "--calibrate", action="store_true", help="find the threshold anew; without it the old one is no longer used"
        )
        _add_rates(change)
        _add_running(change, (*RUNNING, "memory_limit"))
        change.set_defaults(command=command)

    score = commands.add_parser("score", help="score images with a fitted model")
    score.add_argument("model", metavar="MODEL")
    score.add_argument("images", nargs="+", metavar="PATHS", help="images, folders or globs")
    score.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write; it must not hold files yet")
    score.add_argument("--weights", metavar="FILE", help="local state-dict file the model was fitted with")
    score.add_argument("--threshold", type=float, help="image scores above it are defects (default: the model's)")
    score.add_argument("--pixel-threshold", type=float, help="map values above it are masked (default: the model's)")
    score.add_argument("--save", default="heatmaps,overlays", metavar="LIST",
                       help="of maps,heatmaps,overlays,masks (default heatmaps,overlays)")  # fmt: skip
    score.add_argument(
        "--map-format", choices=["tiff", "npy"], default="tiff", help="raw maps: 16-bit TIFF (default) or float32 .npy"
    )
    score.add_argument("--colorbar", action="store_true", help="draw the scale beside every overlay")
    _add_skip_bad(score)
    _add_running(score, (*RUNNING, "memory_limit"))
    _add_ray(score)
    score.set_defaults(command="score")

    export = commands.add_parser("export", help="write a fitted model as one torch.export program (.pt2) to be served")
    export.add_argument("model", metavar="MODEL")
    export.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write (.pt2)")
    export.add_argument("--weights", metavar="FILE", help="local state-dict file the model was fitted with")
    _add_options(export, ["device"])
    export.set_defaults(command="export")

    evaluate = commands.add_parser("eval", help="measure a labelled dataset: metrics, results.json, results.csv, report.html")
    evaluate.add_argument("dataset", metavar="DATASET", help="its folder")
    evaluate.add_argument("--layout", required=True, choices=["mvtec", "visa", "btad", "folder"])
    evaluate.add_argument("--category", nargs="+", metavar="NAME", help="only these (default: all)")
    evaluate.add_argument(
        "-o", "--output", default="fastspade-eval", metavar="OUT", help="folder to write (default fastspade-eval)"
    )
    evaluate.add_argument("--protocol", nargs="+", choices=["paper", "official"],
                          help="paper: maps and masks at the crop; official: at the original size (default: both)")  # fmt: skip
    evaluate.add_argument("--fpr-limit", type=float, default=0.3, help="PRO is integrated up to it (default 0.3)")
    evaluate.add_argument("--inside-roi", action="store_true", help="with --roi: pixel metrics leave out what lies outside")
    evaluate.add_argument("--no-report", action="store_true", help="no report.html (which needs the extra 'eval')")
    evaluate.add_argument(
        "--report-images", type=int, metavar="N", help="at most N test images of each category in it (default: all)"
    )
    evaluate.add_argument("--save-maps", choices=["tiff", "npy"], help="also write every raw map at its original size")
    _add_backbone(evaluate)
    _add_options(evaluate, MODEL)
    _add_rates(evaluate)
    _add_skip_bad(evaluate)
    _add_no_threshold(evaluate)
    _add_running(evaluate, RUNNING)
    evaluate.set_defaults(command="evaluate")

    demo = commands.add_parser("demo", help="the whole job on real photographs, offline (needs the extra 'demo')")
    demo.add_argument("-o", "--out", default="fastspade-demo", help="folder for the pictures (default fastspade-demo)")
    demo.add_argument("--seed", type=int, default=0, help="of the crops and the defects (default 0)")
    _add_quiet(demo)
    demo.set_defaults(command="demo")

    info = commands.add_parser("info", help="version, SIMD level, CUDA architectures, threads")
    info.set_defaults(command="info")
    return parser


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of Spade that the command line gave; of those that a preset may set no others."""
    return {name: getattr(arguments, name) for name in names() if hasattr(arguments, name)} | {"progress": not arguments.quiet}


def parse_bytes(text: str) -> int:
    """ "512M" -> bytes; K, M, G and T are powers of 1024."""
    scale = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper())
    try:
        number = float(text if scale is None else text[:-1])
        return int(number * 2 ** (scale or 0))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"must be a number of bytes such as 512M or 2G, got {text!r}") from None


def _add_backbone(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", help=f"{BACKBONE_HELP} (default {DEFAULT_BACKBONE}; preset rad: {DINO})")


def _add_options(parser: argparse.ArgumentParser, wanted: Iterable[str]) -> None:
    """Arguments for some options of Spade, those that the paper does not have in a group of their own."""
    groups = {True: parser, False: parser.add_argument_group("beyond the paper")}
    for one in fields(Options):
        flag = one.metadata["flag"]
        if one.name not in wanted or flag is None:
            continue
        default = "" if one.default in (None, False) else f" (default {one.default}{_elsewhere(one.name)})"
        settings: dict[str, Any] = {"type": parse_bytes} if flag.get("metavar") == "BYTES" else {}
        # One that is not given must be absent: the preset decides.
        given = one.default if one.metadata["scope"] == "running" else argparse.SUPPRESS
        settings |= flag | {"default": given, "help": (one.metadata["help"] + default).replace("%", "%%")}
        groups[one.metadata["paper"]].add_argument("--" + one.name.replace("_", "-"), **settings)


def _elsewhere(name: str) -> str:
    """What the presets have in place of an option's default."""
    return "".join(f"; preset {preset}: {values[name]}" for preset, values in PRESETS.items() if name in values)


def _add_running(parser: argparse.ArgumentParser, wanted: Iterable[str]) -> None:
    _add_options(parser, wanted)
    _add_quiet(parser)


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_skip_bad(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip-bad", action="store_true", help="leave unreadable images out instead of stopping")


def _add_rates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target-fpr", type=float, default=0.01,
                        help="share of normal images that the threshold may call defects (default 0.01)")  # fmt: skip
    parser.add_argument(
        "--pixel-target-fpr", type=float, default=0.01, help="share of normal pixels that may be masked (default 0.01)"
    )


def _add_no_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-threshold", action="store_true", help="find none, which saves matching the normal images for the scores "
                                                                    "that do not need it")  # fmt: skip


def _add_ray(parser: argparse.ArgumentParser) -> None:
    cluster = parser.add_argument_group(
        "on a Ray cluster (extra 'ray')",
        "OUT gets parquet files with scores, decisions and maps instead of pictures; the same command goes on with a run that "
        "was interrupted. The cluster is the one RAY_ADDRESS names, or this machine. PATHS may be URIs and parquet files.",
    )
    cluster.add_argument("--ray", action="store_true", help="score on a Ray cluster")
    cluster.add_argument("--ray-workers", type=int, metavar="N", help="actors (default: what the cluster's GPUs or CPUs serve)")
    cluster.add_argument("--images-per-part", type=int, metavar="N", help="images per output file (default: 32 batches)")
    cluster.add_argument("--image-column", metavar="NAME", help="of parquet files: encoded images (default: image or bytes)")
    cluster.add_argument("--name-column", metavar="NAME", help="of parquet files: names (default: file and row)")
