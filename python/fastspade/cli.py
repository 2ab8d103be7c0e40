"""The command line: fastspade fit | add | remove | score | export | eval | demo | info."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastspade._version import __version__
from fastspade.errors import FastspadeError, InputError
from fastspade.sigterm import Terminated, sigterm_raises

if TYPE_CHECKING:
    from fastspade.spade import Spade


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0; 2 after an error, told in one line; 130 after Ctrl-C and 143 after SIGTERM."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        with sigterm_raises():
            status: int = arguments.run(arguments)
        return status
    except FastspadeError as error:
        print(f"fastspade: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"fastspade: error: {error}", file=sys.stderr)
        return 2
    except Terminated:
        print("fastspade: terminated; nothing is half-written", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("fastspade: interrupted; nothing is half-written", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastspade", description="Find and outline defects in photographs, having seen only good ones (SPADE)."
    )
    parser.add_argument("--version", action="version", version=f"fastspade {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    fit = commands.add_parser("fit", help="learn what good looks like from a folder of normal images")
    fit.add_argument("images", nargs="+", metavar="DIR", help="folder, file or glob of normal images")
    fit.add_argument("-o", "--output", required=True, metavar="MODEL", help="model to write: a file (.safetensors) or a folder")
    _add_model(fit)
    fit.add_argument("--keep-crop", action="store_true", help="maps cover the centre crop alone")
    _add_rates(fit)
    fit.add_argument("--no-threshold", action="store_true", help="do not calibrate one (saves scoring the normal images)")
    fit.add_argument("--skip-bad", action="store_true", help="leave unreadable images out instead of stopping")
    fit.add_argument("--storage-dtype", choices=["float32", "float16", "bfloat16"], default="float32",
                     help="what the features are kept as; 16 bits take half the room (default float32)")  # fmt: skip
    _add_running(fit)
    _add_memory_limit(fit)
    fit.set_defaults(run=run_fit)

    add = commands.add_parser("add", help="add normal images to a model, without computing the others' features again")
    add.add_argument("model", metavar="MODEL")
    add.add_argument("images", nargs="+", metavar="DIR", help="folder, file or glob of normal images")
    add.add_argument("--skip-bad", action="store_true", help="leave unreadable images out instead of stopping")
    remove = commands.add_parser("remove", help="take normal images out of a model")
    remove.add_argument("model", metavar="MODEL")
    remove.add_argument("images", nargs="+", metavar="ID", help="ids, or names as they were given to fit or add")
    for change, run in ((add, run_add), (remove, run_remove)):
        change.add_argument("--weights", metavar="FILE", help="local state-dict file the model was fitted with")
        change.add_argument("--calibrate", action="store_true", help="find the threshold anew; without it the old one is no longer used")
        _add_rates(change)
        _add_running(change)
        _add_memory_limit(change)
        change.set_defaults(run=run)

    score = commands.add_parser("score", help="score images with a fitted model")
    score.add_argument("model", metavar="MODEL")
    score.add_argument("images", nargs="+", metavar="PATHS", help="images, folders or globs")
    score.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write; it must not hold files yet")
    score.add_argument("--weights", metavar="FILE", help="local state-dict file the model was fitted with")
    score.add_argument("--threshold", type=float, help="image scores above it are defects (default: the model's)")
    score.add_argument("--pixel-threshold", type=float, help="map values above it are masked (default: the model's)")
    score.add_argument("--save", default="heatmaps,overlays", metavar="LIST",
                       help="of maps,heatmaps,overlays,masks (default heatmaps,overlays)")  # fmt: skip
    score.add_argument("--map-format", choices=["tiff", "npy"], default="tiff", help="raw maps: 16-bit TIFF (default) or float32 .npy")
    score.add_argument("--colorbar", action="store_true", help="draw the scale beside every overlay")
    score.add_argument("--skip-bad", action="store_true", help="leave unreadable images out instead of stopping")
    _add_running(score)
    _add_ray(score)
    _add_memory_limit(score)
    score.set_defaults(run=run_score)

    export = commands.add_parser("export", help="write a fitted model as one torch.export program (.pt2) to be served")
    export.add_argument("model", metavar="MODEL")
    export.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write (.pt2)")
    export.add_argument("--weights", metavar="FILE", help="local state-dict file the model was fitted with")
    export.add_argument("--device", help="where it will run: cpu or cuda (default: cuda where this build and machine have it)")
    export.set_defaults(run=run_export)

    evaluate = commands.add_parser("eval", help="measure a labelled dataset: metrics, results.json, results.csv, report.html")
    evaluate.add_argument("dataset", metavar="DATASET", help="its folder")
    evaluate.add_argument("--layout", required=True, choices=["mvtec", "visa", "btad", "folder"])
    evaluate.add_argument("--category", nargs="+", metavar="NAME", help="only these (default: all)")
    evaluate.add_argument("-o", "--output", default="fastspade-eval", metavar="OUT", help="folder to write (default fastspade-eval)")
    evaluate.add_argument("--protocol", nargs="+", choices=["paper", "official"],
                          help="paper: maps and masks at the crop; official: at the original size (default: both)")  # fmt: skip
    evaluate.add_argument("--fpr-limit", type=float, default=0.3, help="PRO is integrated up to it (default 0.3)")
    evaluate.add_argument("--no-report", action="store_true", help="no report.html (which needs the extra 'eval')")
    evaluate.add_argument("--report-images", type=int, metavar="N", help="at most N test images a category in it (default: all)")
    evaluate.add_argument("--save-maps", choices=["tiff", "npy"], help="also write every raw map at its original size")
    _add_model(evaluate)
    _add_rates(evaluate)
    _add_running(evaluate)
    evaluate.set_defaults(run=run_eval)

    demo = commands.add_parser("demo", help="the whole job on real photographs, offline (needs the extra 'demo')")
    demo.add_argument("-o", "--out", default="fastspade-demo", help="folder for the pictures (default fastspade-demo)")
    demo.add_argument("--seed", type=int, default=0, help="of the crops and the defects (default 0)")
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    demo.set_defaults(run=run_demo)

    info = commands.add_parser("info", help="version, SIMD level, CUDA architectures, threads")
    info.set_defaults(run=run_info)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="wide_resnet50_2", help="wide_resnet50_2 (default), resnet18, resnet50, efficientnet_lite0")
    parser.add_argument("--weights", metavar="FILE", help="local state-dict file instead of the published weights")
    parser.add_argument("--layers", nargs="+", help="modules whose outputs form the pyramid, finest first")
    parser.add_argument("--k", type=int, default=50, help="normal images each test image is compared with (default 50)")
    parser.add_argument("--k-image", type=int, help="how many of them make the image score (default: k)")
    parser.add_argument("--kappa", type=int, default=1, help="nearest pixels a pixel's score averages over (default 1)")
    parser.add_argument("--upsample", choices=["bilinear", "nearest"], default="bilinear")
    parser.add_argument("--sigma", type=float, default=4.0, help="Gaussian smoothing of the map, in pixels (default 4)")
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--crop", type=int, default=224)
    beyond = parser.add_argument_group("beyond the paper")
    beyond.add_argument("--image-score", choices=["knn", "max", "top1%", "reweighted"], default="knn",
                        help="knn (the paper's, default); max or top1%% of the map; reweighted: PatchCore's")  # fmt: skip
    beyond.add_argument("--local-average", action="store_true", help="average features over 3 x 3 places")
    beyond.add_argument("--window", type=float, metavar="PIXELS", help="match only this near to a pixel's own place")


def _add_rates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target-fpr", type=float, default=0.01,
                        help="share of normal images that the threshold may call defects (default 0.01)")  # fmt: skip
    parser.add_argument("--pixel-target-fpr", type=float, default=0.01, help="share of normal pixels that may be masked (default 0.01)")


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu or cuda (default: cuda where this build and machine have it)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-workers", type=int, default=2, help="image decoding threads (default 2)")
    parser.add_argument("--max-pixels", type=int, default=178_956_970, metavar="N",
                        help="refuse image files with more pixels (default 178956970, 13,377 squared)")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_ray(parser: argparse.ArgumentParser) -> None:
    cluster = parser.add_argument_group(
        "on a Ray cluster (extra 'ray')",
        "OUT gets parquet files with scores, decisions and maps instead of pictures; the same command goes on with a run that "
        "was interrupted. The cluster is the one RAY_ADDRESS names, or this machine. PATHS may be URIs and parquet files.",
    )
    cluster.add_argument("--ray", action="store_true", help="score on a Ray cluster")
    cluster.add_argument("--ray-workers", type=int, metavar="N", help="actors (default: what the cluster's GPUs or CPUs serve)")
    cluster.add_argument("--images-per-part", type=int, metavar="N", help="images an output file (default: 32 batches)")
    cluster.add_argument("--image-column", metavar="NAME", help="of parquet files: encoded images (default: image or bytes)")
    cluster.add_argument("--name-column", metavar="NAME", help="of parquet files: names (default: file and row)")


def _add_memory_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memory-limit", type=parse_bytes, metavar="BYTES",
                        help="of normal images' features held at once, e.g. 2G, for a model in a folder or on a GPU")  # fmt: skip


def parse_bytes(text: str) -> int:
    """ "512M" -> bytes; K, M, G and T are powers of 1024."""
    scale = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper())
    try:
        number = float(text if scale is None else text[:-1])
        return int(number * 2 ** (scale or 0))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"must be a number of bytes such as 512M or 2G, got {text!r}") from None


def _model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of Spade that _add_model and _add_running made."""
    names = (
        *("backbone", "weights", "layers", "k", "k_image", "kappa", "upsample", "sigma", "resize", "crop"),
        *("image_score", "local_average", "window", "device", "batch_size", "num_workers", "max_pixels"),
    )
    return {name: getattr(arguments, name) for name in names} | {"progress": not arguments.quiet}


def run_fit(arguments: argparse.Namespace) -> int:
    from fastspade.bank.command import describe
    from fastspade.spade import Spade
    from fastspade.threshold import check_rate

    output = Path(arguments.output)
    if not output.parent.is_dir():
        raise InputError(f"output: the folder {output.parent} does not exist")
    check_rate("target-fpr", arguments.target_fpr)
    check_rate("pixel-target-fpr", arguments.pixel_target_fpr)
    options = _model_options(arguments) | {name: getattr(arguments, name) for name in ("keep_crop", "storage_dtype", "memory_limit")}
    model = Spade(**options)
    model.fit(arguments.images, skip_bad=arguments.skip_bad, path=None if output.suffix == ".safetensors" else output)
    if not arguments.no_threshold and model.bank is not None and len(model.bank) > 1:
        model.calibrate(arguments.target_fpr, arguments.pixel_target_fpr)
    model.save(output)
    print(describe(output, model))
    if model.threshold is not None:
        print(f"threshold: image score {model.threshold.image:.6g}, map {model.threshold.pixel:.6g} (leave-one-out)")
    elif not arguments.no_threshold:
        print("no threshold: calibrating one needs at least 2 normal images", file=sys.stderr)
    for name, error in model.skipped:
        print(f"skipped {name}: {error}", file=sys.stderr)
    return 0


def run_add(arguments: argparse.Namespace) -> int:
    from fastspade.bank.command import add, holding

    with holding(arguments.model):
        return add(arguments, load_model(arguments))


def run_remove(arguments: argparse.Namespace) -> int:
    from fastspade.bank.command import holding, remove

    with holding(arguments.model):
        return remove(arguments, load_model(arguments))


def load_model(arguments: argparse.Namespace) -> Spade:
    """The model that MODEL names, with the options that _add_running and _add_memory_limit made."""
    from fastspade.spade import Spade

    return Spade.load(
        arguments.model,
        device=arguments.device,
        weights=arguments.weights,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        max_pixels=arguments.max_pixels,
        progress=not arguments.quiet,
        memory_limit=arguments.memory_limit,
    )


def run_score(arguments: argparse.Namespace) -> int:
    if arguments.ray:
        from fastspade.ray.command import run

        return run(arguments)
    from fastspade.output_folder import check_output, written_at_once
    from fastspade.score_files import parse_kinds, write_scores

    output = Path(arguments.output)
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
        count = write_scores(images, folder, kinds, map_format=arguments.map_format, colorbar=arguments.colorbar)
    for name, error in model.skipped:
        print(f"skipped {name}: {error}", file=sys.stderr)
    written = "".join(f", {count} {'heat maps' if kind == 'heatmaps' else kind}" for kind in kinds)
    print(f"{output}: scores.csv{written}")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    from fastspade.module import export
    from fastspade.spade import Spade

    model = Spade.load(arguments.model, device=arguments.device, weights=arguments.weights)
    export(model, arguments.output)
    size = f"{model.crop} x {model.crop}"
    print(f"{arguments.output}: images (B, 3, {size}) in [0, 1] -> image scores (B,), anomaly maps (B, {size}); on {model.device}")
    return 0


def run_eval(arguments: argparse.Namespace) -> int:
    from fastspade.evaluate.command import run

    return run(arguments, _model_options(arguments))


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
