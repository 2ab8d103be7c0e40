"""Results as results.json, results.csv and a table on the terminal."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from fastspade.evaluate.arrays import MetricValue
from fastspade.evaluate.runner import IMAGE_METRICS, PIXEL_METRICS, CategoryResult, mean_of
from fastspade.files.progress import on_terminal

SHORT = {
    "image_roc_auc": "image ROC-AUC",
    "image_average_precision": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_roc_auc": "pixel ROC-AUC",
    "pixel_average_precision": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "pro": "PRO",
}


def summary(results: Sequence[CategoryResult]) -> dict[str, dict[str, MetricValue]]:
    """Means over categories: {"image": {metric: value}, protocol: {metric: value}, ...}."""
    protocols = list(results[0].pixel_metrics) if results else []
    found = {"image": {name: mean_of([one.image_metrics[name] for one in results]) for name in IMAGE_METRICS}}
    for protocol in protocols:
        found[protocol] = {name: mean_of([one.pixel_metrics[protocol][name] for one in results]) for name in PIXEL_METRICS}
    return found


def as_json(results: Sequence[CategoryResult], about: dict[str, Any], images: dict[str, list[dict[str, Any]]]) -> str:
    """The whole of results.json. about: what was run. images: for each category, one record per image.

    Metrics are shares from 0 to 1; an undefined one is null and "reasons" says why.
    """
    categories = []
    for one in results:
        reasons: dict[str, str] = {}
        categories.append(
            {
                "name": one.name,
                "images": {"train": one.train, "good": one.good, "defect": one.defects},
                "image": _plain(one.image_metrics, "image", reasons),
                "pixel": {name: _plain(values, name, reasons) for name, values in one.pixel_metrics.items()},
                "threshold": None if one.threshold is None else one.threshold.as_dict(),
                "decisions": _plain(
                    {"false_positive_rate": one.false_positive_rate, "true_positive_rate": one.true_positive_rate},
                    "decisions",
                    reasons,
                ),
                "reasons": reasons,
                "seconds": {name: round(value, 4) for name, value in one.seconds.items()},
                "scores": images.get(one.name, []),
            }
        )
    reasons = {}
    means = {group: _plain(values, group, reasons) for group, values in summary(results).items()}
    whole = about | {"mean": means | {"reasons": reasons}, "categories": categories}
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def _plain(values: dict[str, MetricValue], group: str, reasons: dict[str, str]) -> dict[str, float | None]:
    for name, value in values.items():
        if value.reason:
            reasons[f"{group}.{name}"] = value.reason
    return {name: None if value != value else float(value) for name, value in values.items()}


def as_csv(results: Sequence[CategoryResult]) -> str:
    """One row per category and protocol, and the means; undefined metrics are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "category",
            "protocol",
            "train",
            "good",
            "defects",
            *IMAGE_METRICS,
            *PIXEL_METRICS,
            "threshold",
            "false_positive_rate",
            "true_positive_rate",
            "fit_seconds",
            "score_seconds",
        ]
    )
    means = summary(results)
    for protocol in [name for name in means if name != "image"]:
        for one in results:
            metrics = [one.image_metrics[name] for name in IMAGE_METRICS] + [
                one.pixel_metrics[protocol][name] for name in PIXEL_METRICS
            ]
            threshold = "" if one.threshold is None else repr(one.threshold.image)
            writer.writerow(
                [
                    one.name,
                    protocol,
                    one.train,
                    one.good,
                    one.defects,
                    *map(_cell, metrics),
                    threshold,
                    _cell(one.false_positive_rate),
                    _cell(one.true_positive_rate),
                    f"{one.seconds['fit']:.3f}",
                    f"{one.seconds['score']:.3f}",
                ]
            )
        metrics = [*means["image"].values(), *means[protocol].values()]
        writer.writerow(
            [
                "mean",
                protocol,
                *[sum(getattr(one, name) for one in results) for name in ("train", "good", "defects")],
                *map(_cell, metrics),
                "",
                "",
                "",
                *[f"{sum(one.seconds[name] for one in results):.3f}" for name in ("fit", "score")],
            ]
        )
    return text.getvalue()


def _cell(value: MetricValue) -> str:
    return "" if value != value else repr(float(value))


def print_table(results: Sequence[CategoryResult], file: TextIO | None = None) -> None:
    """Percentages: a row per category and the mean, one table per protocol; with rich on a terminal, plain text elsewhere."""
    file = sys.stdout if file is None else file
    means = summary(results)
    for protocol in [name for name in means if name != "image"]:
        heads = ["category", *(SHORT[name] for name in (*IMAGE_METRICS, *PIXEL_METRICS))]
        rows = [
            [one.name, *map(_percent, [*one.image_metrics.values(), *one.pixel_metrics[protocol].values()])] for one in results
        ]
        rows.append(["mean", *map(_percent, [*means["image"].values(), *means[protocol].values()])])
        title = f"protocol {protocol} (%)"
        if not (on_terminal(file) and _print_rich(title, heads, rows, file)):
            _print_plain(title, heads, rows, file)
    reasons = {
        f"{one.name}: {name}: {value.reason}": None
        for one in results
        for name, value in [*one.image_metrics.items(), *(pair for group in one.pixel_metrics.values() for pair in group.items())]
        if value.reason
    }
    for reason in reasons:
        print(f"n/a  {reason}", file=file)


def _percent(value: MetricValue) -> str:
    return "n/a" if value != value else f"{100 * value:.2f}"


def _print_rich(title: str, heads: list[str], rows: list[list[str]], file: TextIO) -> bool:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    table = Table(title=title)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left")
    for i, row in enumerate(rows):
        table.add_row(*row, end_section=i == len(rows) - 2, style="bold" if i == len(rows) - 1 else None)
    Console(file=file).print(table)
    return True


def _print_plain(title: str, heads: list[str], rows: list[list[str]], file: TextIO) -> None:
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    print(title, file=file)
    for row in [heads, *rows]:
        first, *others = (text.rjust(width) if i else text.ljust(width) for i, (text, width) in enumerate(zip(row, widths)))
        print("  ".join([first, *others]), file=file)
