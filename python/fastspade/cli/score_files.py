"""What `fastspade score` writes: a table, and for every image the pictures and maps that were asked for."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fastspade import maps
from fastspade.errors import InputError
from fastspade.images.geometry import CropBox
from fastspade.maps.files import write_map
from fastspade.spade.result import ScoredImage

COMPRESS_LEVEL = 1  # of PNG files: four times faster than the usual 6, for a fifth more bytes
KINDS = ("maps", "heatmaps", "overlays", "masks")


@dataclass
class _Row:
    """What the second pass needs of an image: its map waits on disk, its picture is decoded again."""

    name: str
    score: float
    peak: float
    decision: str
    pixel_threshold: float | None
    seen: CropBox | None
    picture: Callable[[], Image.Image]


def parse_kinds(text: str) -> tuple[str, ...]:
    """ "maps,overlays" -> kinds in the order of KINDS. Raises InputError for others."""
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    for part in wanted:
        if part not in KINDS:
            raise InputError(f"save must list some of {', '.join(KINDS)}, separated by commas; got {part!r}")
    return tuple(kind for kind in KINDS if kind in wanted)


def write_scores(
    images: Iterable[ScoredImage],
    folder: Path,
    kinds: Sequence[str],
    *,
    map_format: str = "tiff",
    colorbar: bool = False,
    threads: int = 2,
) -> int:
    """Write scores.csv, a folder for every kind, and colorbar.png where there are colours; returns how many images.

    Two passes: maps go to disk first, so that all files share one scale without all maps in memory. With a pixel
    threshold overlays show the mask's outline. threads: that draw and write. Raises InputError for masks without one.
    """
    rows: list[_Row] = []
    low, high = float("inf"), float("-inf")
    raw = folder / ".maps"
    raw.mkdir()
    for i, image in enumerate(images):
        if kinds:  # else the table is all that is written
            np.save(raw / f"{i}.npy", image.anomaly_map)
        low, high = min(low, float(image.anomaly_map.min())), max(high, float(image.anomaly_map.max()))
        decision = "" if image.threshold is None else "defect" if image.is_defect else "good"
        peak = float(image.anomaly_map.max())
        rows.append(_Row(image.name, image.score, peak, decision, image.pixel_threshold, image.seen, image.picture))
    for kind in kinds:
        (folder / kind).mkdir()
    stems = unique_stems([row.name for row in rows])

    def write(i: int) -> list[str]:
        if not kinds:
            return []
        values = np.load(raw / f"{i}.npy")
        (raw / f"{i}.npy").unlink()
        return [_write(folder, kind, stems[i], rows[i], values, (low, high), map_format, colorbar) for kind in kinds]

    with ThreadPoolExecutor(threads, thread_name_prefix="fastspade-write") as pool:
        files = list(pool.map(write, range(len(rows))))
    raw.rmdir()
    if {"heatmaps", "overlays"} & set(kinds):
        maps.colorbar(low, high).save(folder / "colorbar.png")
    # A name that is not UTF-8 goes into the table as the bytes that it is on disk.
    with open(folder / "scores.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "score", "decision", "map_max", *(kind.removesuffix("s") for kind in kinds)])
        for row, written in zip(rows, files, strict=True):
            writer.writerow([row.name, repr(row.score), row.decision, repr(row.peak), *written])
    return len(rows)


def _write(
    folder: Path, kind: str, stem: str, row: _Row, values: np.ndarray, scale: tuple[float, float], map_format: str, colorbar: bool
) -> str:
    """Write one file of one image; returns its path in the folder."""
    name = f"{kind}/{stem}.{map_format if kind == 'maps' else 'png'}"
    path = folder / name
    mask = None if row.pixel_threshold is None else values > row.pixel_threshold
    if kind == "maps":
        write_map(path, values, map_format, scale)
    elif kind == "heatmaps":
        Image.fromarray(maps.heatmap(values, vmin=scale[0], vmax=scale[1])).save(path, compress_level=COMPRESS_LEVEL)
    elif kind == "overlays":
        maps.overlay(row.picture(), values, vmin=scale[0], vmax=scale[1], mask=mask, seen=row.seen, colorbar=colorbar).save(
            path, compress_level=COMPRESS_LEVEL
        )
    elif mask is None:
        raise InputError("masks need a threshold: fit calibrates one, or give --pixel-threshold")
    else:
        Image.fromarray((mask * 255).astype(np.uint8)).save(path, compress_level=COMPRESS_LEVEL)
    return name


def unique_stems(names: Sequence[str]) -> list[str]:
    """One file name per image: its stem, numbered where several images share it."""
    used: set[str] = set()
    numbers: dict[str, int] = {}  # of a stem, the last one given
    stems = []
    for name in names:
        stem = base = _shortened(Path(name).stem) or "image"
        while stem in used:
            numbers[base] = numbers.get(base, 1) + 1
            stem = f"{base}_{numbers[base]}"
        used.add(stem)
        stems.append(stem)
    return stems


def _shortened(stem: str) -> str:
    """At most 200 bytes, so that a number and another suffix still make a file name."""
    return os.fsencode(stem)[:200].decode(sys.getfilesystemencoding(), "ignore") if len(os.fsencode(stem)) > 200 else stem
