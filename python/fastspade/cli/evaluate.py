"""`fastspade eval`: a dataset through fit, score and metrics; results.json, results.csv, report.html and a table."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastspade._version import __version__
from fastspade.cli.model import tell_skipped
from fastspade.cli.parser import options_of
from fastspade.evaluate import tables
from fastspade.evaluate.category import Category
from fastspade.evaluate.dataset import read_dataset
from fastspade.evaluate.layouts.files import left_out
from fastspade.evaluate.protocols import PROTOCOLS, describe, placed_map
from fastspade.evaluate.runner import ScoredTest, evaluate_category
from fastspade.files.atomic import check_output, written_at_once
from fastspade.files.home import user_path
from fastspade.files.progress import on_terminal
from fastspade.maps.files import write_map
from fastspade.spade import Spade


def run(arguments: argparse.Namespace) -> int:
    """Evaluate. The output folder appears when everything is done, or not at all."""
    output = user_path(arguments.output)
    check_output(output)
    protocols = [name for name in PROTOCOLS if not arguments.protocol or name in arguments.protocol]
    categories = read_dataset(
        arguments.dataset, arguments.layout, arguments.category,
        max_pixels=arguments.max_pixels, skip_bad=arguments.skip_bad, unique_stems=bool(arguments.save_maps),
    )  # fmt: skip
    tell_skipped(
        [*left_out(user_path(arguments.dataset), categories), *(one for category in categories for one in category.skipped)]
    )
    report = None
    if not arguments.no_report:
        from fastspade.evaluate.report import Report

        report = Report(arguments.report_images)
    model = Spade(arguments.backbone, **options_of(arguments), keep_crop=True)  # fitted anew for every category
    with written_at_once(output) as folder:
        results, images = [], {}
        bar = tqdm(total=len(categories), desc="eval", unit="category", disable=arguments.quiet or not on_terminal(sys.stderr))
        for category in categories:
            bar.set_postfix_str(category.name)
            result, tests = evaluate_category(
                category,
                model,
                protocols=protocols,
                target_fpr=None if arguments.no_threshold else arguments.target_fpr,
                pixel_target_fpr=arguments.pixel_target_fpr,
                fpr_limit=arguments.fpr_limit,
                inside_roi=arguments.inside_roi,
            )
            results.append(result)
            images[category.name] = [_record(one, user_path(arguments.dataset)) for one in tests]
            if arguments.save_maps:
                _save_maps(folder / "anomaly_maps", category, tests, arguments.save_maps)
            if report is not None:
                report.add(category, result, tests, model, user_path(arguments.dataset))
            bar.update()
        bar.close()
        about = _about(arguments, model, protocols)
        (folder / "results.json").write_text(tables.as_json(results, about, images), encoding="utf-8")
        (folder / "results.csv").write_text(tables.as_csv(results), encoding="utf-8")
        if report is not None:
            (folder / "report.html").write_text(report.html(results, about), encoding="utf-8")
    tables.print_table(results)
    for protocol in protocols:
        print(describe(protocol, model.resize, model.crop))
    print(f"{output}: results.json, results.csv{'' if report is None else ', report.html'}")
    return 0


def _about(arguments: argparse.Namespace, model: Spade, protocols: list[str]) -> dict[str, Any]:
    spec = model.backbone.spec()
    return {
        "fastspade": __version__,
        "dataset": str(arguments.dataset),
        "layout": arguments.layout,
        "protocols": {name: describe(name, model.resize, model.crop) for name in protocols},
        "pro_fpr_limit": arguments.fpr_limit,
        "options": {name: value for name, value in model.options().items() if name != "keep_crop"},
        "backbone": {name: spec[name] for name in ("name", "layers", "embedding", "cosine", "weights", "fingerprint")},
    }


def _record(one: ScoredTest, root: Path) -> dict[str, Any]:
    scored = one.scored
    return {
        "image": relative(one.test.path, root),
        "kind": one.test.kind,
        "score": scored.score,
        "map_max": float(scored.anomaly_map.max()),
        "decision": None if scored.threshold is None else "defect" if scored.is_defect else "good",
    }


def relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _save_maps(folder: Path, category: Category, tests: list[ScoredTest], kind: str) -> None:
    """<category>/test/<kind>/<stem>.tiff or .npy at the images' own sizes: what official evaluation scripts read."""
    low = min(float(one.scored.anomaly_map.min()) for one in tests)
    high = max(float(one.scored.anomaly_map.max()) for one in tests)

    def write(one: ScoredTest) -> None:
        path = folder / category.name / "test" / one.test.kind / f"{one.test.path.stem}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_map(path, placed_map(one.scored.anomaly_map, one.scored.crop, one.scored.size), kind, (low, high))

    with ThreadPoolExecutor(thread_name_prefix="fastspade-write") as pool:
        list(pool.map(write, tests))
