"""Tables of measured figures and of options, made when the site is built, so that pages cannot disagree with their sources.

Figures come from benchmarks/results, options from fastspade.spade.options.

A page says ``<!-- table: NAME -->``; NAME is one of TABLES.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
_PLACE = re.compile(r"<!-- table: (\w+) -->")


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return f"*{machine['cores']} cores of {machine['processor']}, {machine['build']['simd']}; {versions}. `{machine['command']}`*"


def cpu_search() -> str:
    """The search beside others, one row per kind of data."""
    rows, last = [], None
    for path in sorted(RESULTS.glob("cpu_*_k50.json")):
        last = _read(path.name)
        settings, contenders = last["settings"], last["contenders"]
        cells = [f"{settings['data']}, {settings['shapes']}, {settings['upsample']}"]
        cells.append(f"{contenders['fastspade']['median']:.2f} s")
        for name in ("faiss.knn", "torch.cdist + topk"):
            cells.append(f"{contenders[name]['ratio']:.1f} x" if name in contenders else "")
        rows.append([*cells, f"{math.floor(1e4 * last['skipped']) / 100:.2f} %", f"{last['extra_memory_mib']:.0f} MiB"])
    header = ["data, shapes, upsampling", "fastspade", "faiss.knn", "torch.cdist + topk", "pairs never evaluated", "extra memory"]
    return _markdown(header, rows) + ("" if last is None else "\n\n" + _machine(last))


def growth() -> str:
    """Fitted exponents of time against each size."""
    record = _read("scaling.json")
    names = sorted({name for curve in record["curves"].values() for name in curve.get("exponents", {})})
    rows = [
        [what, *(f"{curve['exponents'][name]:.2f}" if name in curve["exponents"] else "" for name in names)]
        for what, curve in record["curves"].items()
        if curve.get("exponents")
    ]
    return _markdown(["time grows with", *names], rows) + "\n\n" + _machine(record)


# Rows of accuracy.json that another table shows; the default is in all of them.
OF_WHOLE_PICTURES = ("the default", "padded to fit", "tile=80", 'roi="auto"', 'augment="flips"')
OF_LEVELS = {"the default": "the blocks' outputs", "activations inside the blocks": "activations inside the blocks"}
OF_THE_BORDER = {
    "reflect_border=False": "zero padding",
    "reflection alone": "reflection alone",
    "profile of the normal images": "reflection; profile of the normal images' own maps, each against all the others",
    "the default": "**the default**: reflection; profile of mirrored normal images",
}
SCENES = ("brick", "coffee", "grass", "gravel")  # of the demo


def _mean(row: dict[str, Any], sets: Iterable[str]) -> dict[str, float]:
    """A row's figures, every set alike."""
    found = [row["each"][name] for name in sets]
    return {key: statistics.fmean(one[key] for one in found) for key in found[0] if all(key in one for one in found)}


def _times(record: dict[str, Any], row: dict[str, Any]) -> str:
    """A row's processor time over that of the default, on the demo's scenes."""
    seconds = [_mean(one, SCENES)["seconds_per_image"] for one in (row, record["rows"]["the default"])]
    return f"{seconds[0] / seconds[1]:.1f} x"


def _percent(figures: dict[str, float], *keys: str) -> list[str]:
    return [f"{100 * figures[key]:.1f}" for key in keys]


def accuracy() -> str:
    """What presets and options find."""
    record = _read("accuracy.json")
    sets, rows = list(record["images"]), []
    for name, row in record["rows"].items():
        if name in OF_WHOLE_PICTURES[1:] or not set(sets) <= set(row["each"]):
            continue
        by_set = [_percent(row["each"][one], "image_roc_auc")[0] for one in sets]
        mean = _mean(row, sets)
        means = _percent(mean, "image_roc_auc", "pixel_roc_auc", "pro", "found", "alarms")
        rows.append([name, *by_set, *means, _times(record, row)])
    names = [name.replace("_", " ") for name in sets]
    header = ["", *names, "image ROC-AUC", "pixel ROC-AUC", "PRO", "found", "false alarms", "time"]
    return _markdown(header, rows) + "\n\n" + _machine(record)


def levels() -> str:
    """efficientnet_lite0's two sets of levels, on the sets that both were measured on."""
    record, rows = _read("accuracy.json"), []
    sets = set.intersection(*(set(record["rows"][name]["each"]) for name in OF_LEVELS))
    for name, text in OF_LEVELS.items():
        row = record["rows"][name]
        cells = _percent(_mean(row, sets), "image_roc_auc", "pixel_roc_auc", "pro", "found", "alarms")
        rows.append([text, *cells, _times(record, row)])
    left_out = [name.replace("_", " ") for name in record["images"] if name not in sets]
    header = ["levels", "image ROC-AUC", "pixel ROC-AUC", "PRO", "found", "false alarms", "time"]
    return _markdown(header, rows) + (f"\n\n*Means over {len(sets)} sets, without {', '.join(left_out)}.*" if left_out else "")


def whole_pictures() -> str:
    """What the options of whole pictures bring: magnetic tiles; the demo's scenes."""
    record = _read("accuracy.json")
    figures, rows = ("image_roc_auc", "pixel_roc_auc", "pro"), []
    for name in OF_WHOLE_PICTURES:
        row = record["rows"][name]
        tiles, scenes = row["each"]["magnetic_tile"], _mean(row, SCENES) if SCENES[0] in row["each"] else None
        cells = [*_percent(tiles, *figures), f"{tiles['entries']:.1f}"]
        cells += [*_percent(scenes, *figures), _times(record, row)] if scenes else [""] * 4
        rows.append([name, *cells])
    names = ["image ROC-AUC", "pixel ROC-AUC", "PRO"]
    header = ["", f"tiles: {names[0]}", *names[1:], "entries", f"demo: {names[0]}", *names[1:], "time"]
    return _markdown(header, rows)


def border() -> str:
    """The border as networks leave it, and continued."""
    record = _read("accuracy.json")
    rows = []
    for name, text in OF_THE_BORDER.items():
        row = record["rows"][name]
        mean = _mean(row, SCENES)
        rings = [f"{row['each'][one]['ring']:.2f}" if one in row["each"] else "" for one in (*SCENES, "magnetic_tile")]
        rows.append([text, *_percent(mean, "image_roc_auc", "pixel_roc_auc", "pro"), *rings])
    header = ["border", "image ROC-AUC", "pixel ROC-AUC", "PRO", f"ring: {SCENES[0]}", *SCENES[1:], "magnetic tile"]
    return _markdown(header, rows)


def image_scores() -> str:
    """What image scores find, of those that were tried."""
    record = _read("image_scores.json")
    rows = []
    for name, row in record["rows"].items():
        mean, tiles = row["mean"], row["each"]["magnetic_tile"]
        values = [f"{100 * mean['image_roc_auc']:.1f}", f"{100 * row['lowest']:.1f}"]
        values += [f"{100 * mean['found']:.0f}", f"{100 * mean['alarms']:.1f}"]
        values += [f"{100 * tiles['image_roc_auc']:.1f}", f"{100 * tiles['found']:.0f}", f"{100 * tiles['alarms']:.1f}"]
        rows.append([f"**{name}**" if name == "the default" else name, *values])
    header = ["image score", "image ROC-AUC", "lowest", "found", "false alarms", "tiles: ROC-AUC", "found", "false alarms"]
    return _markdown(header, rows) + "\n\n" + _machine(record)


def thresholds() -> str:
    """What estimators of the threshold do at a target of 1 %."""
    record = _read("thresholds.json")
    known = {(row["estimator"], row["images"]): row for row in record["rows"] if row["target"] == 0.01}
    tiles = record["sets"].index("magnetic_tile")
    sizes = sorted({images for _, images in known if images <= 100})
    rows = []
    for name, decided in record["decisions"].items():
        found = [known.get((name, size)) for size in sizes]
        drawn = [f"{100 * one['mean']:.1f}; {100 * one['9 of 10']:.1f}" if one else "" for one in found]
        decided_all = [f"{100 * decided['alarms']:.1f}", f"{100 * decided['found']:.0f}"]
        rows.append([name, *drawn, *decided_all, f"{100 * decided['each']['found'][tiles]:.0f}"])
    drawn = [f"{size} images: mean; 9 of 10 below, %" for size in sizes]
    return (
        _markdown(["estimator", *drawn, "all: false alarms, %", "all: found, %", "tiles: found, %"], rows)
        + "\n\n"
        + _machine(record)
    )


def backbones() -> str:
    """What each backbone costs per image."""
    record = _read("backbones.json")
    rows = []
    for name, row in record["rows"].items():
        levels = "<br>".join(
            f"{channels} x {height} x {width}".replace(" ", "&nbsp;") for channels, height, width in row["levels"]
        )
        costs = [f"{row['bank_bytes_per_image'] / 1e6:.2f}", f"{row['network_ms']:.0f}", f"{row['search_ms']:.0f}"]
        rows.append([f"`{name}`", levels, str(row["embedding"]), *costs, row["weights"]])
    header = ["backbone", "levels", "embedding", "bank, MB per image", "network, ms per image", "search, ms per image", "weights"]
    return _markdown(header, rows) + "\n\n" + _machine(record)


def scale_out() -> str:
    """Images per second against the workers of a local cluster."""
    record = _read("scale_out.json")
    stages, images = record["stages"], {}
    for workers, runs in record["workers"].items():
        images[workers] = statistics.median(run["images_a_second"] for run in runs)
    rows = [[workers, f"{rate:.2f}", f"{rate / images['1']:.2f} x"] for workers, rate in images.items()]
    parts = ", ".join(
        f"{what} {1000 * stages[name]:.0f} ms"
        for name, what in (
            ("read", "decoding"),
            ("features", "network"),
            ("search_and_map", "search and map"),
            ("encode_map", "PNG"),
        )
    )
    alone = f"One image on one thread: {parts} ({record['backbone']}, {record['normal_images']} normal images)."
    return _markdown(["workers", "images per second", "relative to one"], rows) + f"\n\n{alone}\n\n" + _machine(record)


def bank() -> str:
    """A large bank in a folder: opening it, and scoring at several limits."""
    record = _read("bank.json")
    rows = [
        [f"opening the {what}", f"{row['seconds']:.2f} s", "", f"{row['peak_mib']:.0f} MiB", f"{row['bytes_read'] / 1e6:.0f} MB"]
        for what, row in record["opening"].items()
    ]
    for mode, row in record["scoring"].items():
        rates = [f"{row[when]['images_a_second']:.1f} images/s" for when in ("first", "again")]
        asked = f"{row['again']['asked'] / 1e6:.0f} MB per image"
        rows.append([f"scoring, features held: {mode}", *rates, f"{row['peak_mib']:.0f} MiB", asked])
    return _markdown(["", "first", "again, from the page cache", "peak memory", "read"], rows) + "\n\n" + _machine(record)


def reading() -> str:
    """Features copied out of a memory map beside positioned reads."""
    record = _read("bank.json")["reading"]
    rows = [
        [what, *(f"{row[f'{way}_ms']:.2f} ms" for way in ("mapped", "positioned")), f"{row['ratio']:.2f}"]
        for what, row in record.items()
        if what != "bank"
    ]
    return _markdown(["per image", "mapped", "positioned", "ratio"], rows)


def storage() -> str:
    """What scores lose when the normal images' features are kept in 16 bits."""
    record = _read("storage.json")
    metrics = {
        "image_roc_auc_knn": "ROC-AUC, knn", "image_roc_auc_max": "ROC-AUC, max", "image_roc_auc_top1%": "ROC-AUC, top1%",
        "pixel_roc_auc": "pixel ROC-AUC", "pro": "PRO",
    }  # fmt: skip
    rows = []
    for dtype, row in record["rows"].items():
        losses = [f"{row['largest_loss'][metric]:.1g}" for metric in metrics]
        rows.append([dtype, f"{row['image_bytes'] / 2**20:.2f} MiB", *losses, f"{row['relative_change']['map']['largest']:.1g}"])
    return _markdown(["stored as", "size per image", *metrics.values(), "map"], rows) + "\n\n" + _machine(record)


def determinism() -> str:
    """How much the network alone varies with its batch and its threads."""
    record = _read("determinism.json")

    def shown(value: float) -> str:
        return f"{value:.1e}" if value else "none"

    rows = [
        [str(row["batch_size"]), str(row["threads"]), shown(row["features"]), shown(row["scores"]), shown(row["maps"])]
        for row in record["rows"][1:]
    ]
    header = ["batch", "threads", "features, largest difference over the largest value"]
    return _markdown([*header, "scores, largest relative change", "maps"], rows) + "\n\n" + _machine(record)


def options() -> str:
    """Every option with its default, what the other presets have in its place, and what it means."""
    from fastspade.spade.options import PRESETS, Options

    rows = []
    for one in fields(Options):
        others = [f"`{PRESETS[name][one.name]!r}`" if one.name in PRESETS[name] else "" for name in ("paper", "rad")]
        meaning = ("" if one.metadata["paper"] else "*Beyond the paper:* ") + one.metadata["help"].replace("|", "\\|")
        rows.append([f"`{one.name}`", f"`{one.default!r}`", *others, meaning])
    return _markdown(["option", "default", '`preset="paper"`', '`preset="rad"`', "meaning"], rows)


def cuda_model() -> str:
    """What a pair costs the CUDA search in each form, and what would bind."""
    record = _read("cuda_model.json")
    rows = [
        [row["device"], row["form"]]
        + [f"{row[name]:.0f}" for name in ("multiply_adds", "l2_bytes", "shared_bytes")]
        + [f"{row['issue_slots']:.1f}", f"{row['milliseconds']:.2f}", row["binds"]]
        for row in record["rows"]
    ]
    header = ["device", "form", "multiply-adds", "bytes, second-level cache", "bytes, shared memory", "instructions"]
    header += ["ms an image", "binds"]
    return _markdown(header, rows) + f"\n\n*`{record['machine']['command']}`*"


def projections() -> str:
    """What bounds by projections leave: of the finest level, which are built, and of whole descriptors."""
    record = _read("projections.json")
    rows = [
        [
            f"{row['data']}, {' + '.join(map(str, row['channels']))} channels",
            f"{row['directions']} of the {'finest level' if row['form'] == 'finest' else 'whole'}",
            f"{100 * row['untold']:.1f} %",
            f"{100 * row['left']:.3f} %",
            f"{100 * row['refined']:.2f} %",
            f"{100 * row['rows_with_more_left']:.0f} %",
        ]
        for row in record["rows"]
    ]
    header = [
        "features",
        "directions",
        "distance untold",
        "pairs left by the true minimum",
        "refined",
        "rows with more than 9 left",
    ]
    return _markdown(header, rows) + f"\n\n*`{record['machine']['command']}`*"


TABLES: dict[str, Callable[[], str]] = {
    "cpu_search": cpu_search,
    "growth": growth,
    "accuracy": accuracy,
    "levels": levels,
    "whole_pictures": whole_pictures,
    "border": border,
    "image_scores": image_scores,
    "thresholds": thresholds,
    "backbones": backbones,
    "scale_out": scale_out,
    "bank": bank,
    "reading": reading,
    "storage": storage,
    "determinism": determinism,
    "cuda_model": cuda_model,
    "projections": projections,
    "options": options,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return _PLACE.sub(lambda place: TABLES[place.group(1)](), markdown)
