"""What `fastspade score` writes: a table, and for every image the pictures and maps that were asked for."""

from __future__ import annotations

import csv
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
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
REACH = 4.0  # of the colours, in pixel thresholds: few good images reach half of it, and few defects stay below a third


@dataclass(frozen=True)
class _Image:
    """What files are made of: the map waits in memory or on disk, the picture is decoded again."""

    stem: str
    values: Callable[[], np.ndarray]
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

    All colours of a run share one scale: from 0 to REACH pixel thresholds, or, without a threshold, from the lowest value of all
    maps to the highest. Threads write files beside the scoring, of at most twice as many images at a time. What
    needs a scale that only the last map tells (16-bit maps always do) is written in a second pass, from maps that wait on disk.
    With a pixel threshold overlays show the mask's outline. threads: that draw and write. Raises InputError for masks without
    a threshold.
    """
    table: list[list[str]] = []
    waiting: list[_Image] = []
    low, high = float("inf"), float("-inf")
    scale: tuple[float, float] | None = None
    later: tuple[str, ...] = ()
    stem_of = _Stems()
    raw = folder / ".maps"
    for path in (raw, *(folder / kind for kind in kinds)):
        path.mkdir()
    with ThreadPoolExecutor(threads, thread_name_prefix="fastspade-write") as pool:
        writing: deque[Future[None]] = deque()
        for i, image in enumerate(images):
            values, threshold = image.anomaly_map, image.pixel_threshold
            if i == 0:
                scale = None if threshold is None or threshold <= 0 else (0.0, REACH * threshold)
                later = tuple(kind for kind in kinds if _waits(kind, map_format, scale))
            peak = float(values.max())
            low, high = min(low, float(values.min())), max(high, peak)
            stem = stem_of(image.name)
            decision = "" if image.threshold is None else "defect" if image.is_defect else "good"
            files = [_file(kind, stem, map_format) for kind in kinds]
            table.append([image.name, repr(image.score), decision, repr(peak), *files])
            one = _Image(stem, partial(np.asarray, values), threshold, image.seen, image.picture)
            if later:
                np.save(raw / f"{i}.npy", values)
                waiting.append(replace(one, values=partial(_taken, raw / f"{i}.npy")))
            now = [kind for kind in kinds if kind not in later]
            writing.append(pool.submit(_write, folder, now, one, map_format, colorbar, scale or (low, high), (low, high)))
            while len(writing) > 2 * threads:
                writing.popleft().result()
        scale = scale or (low, high)
        writing.extend(pool.submit(_write, folder, later, one, map_format, colorbar, scale, (low, high)) for one in waiting)
        for done in writing:
            done.result()
    raw.rmdir()
    if {"heatmaps", "overlays"} & set(kinds):
        maps.colorbar(*scale).save(folder / "colorbar.png")
    # A name that is not UTF-8 goes into the table as the bytes that it is on disk.
    with open(folder / "scores.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "score", "decision", "map_max", *(kind.removesuffix("s") for kind in kinds)])
        writer.writerows(table)
    return len(table)


def _waits(kind: str, map_format: str, scale: tuple[float, float] | None) -> bool:
    """Must files of a kind wait for the last map? scale: of colours, where it is known."""
    return map_format == "tiff" if kind == "maps" else kind != "masks" and scale is None


def _file(kind: str, stem: str, map_format: str) -> str:
    return f"{kind}/{stem}.{map_format if kind == 'maps' else 'png'}"


def _taken(path: Path) -> np.ndarray:
    """The array of a file that is not needed again."""
    values: np.ndarray = np.load(path)
    path.unlink()
    return values


def _write(
    folder: Path,
    kinds: Sequence[str],
    one: _Image,
    map_format: str,
    colorbar: bool,
    scale: tuple[float, float],
    span: tuple[float, float],
) -> None:
    """Write files of one image. scale: of colours; span: of 16-bit maps, the lowest and the highest value of all."""
    values = one.values() if kinds else np.empty(0)
    low, high = scale
    mask = None if one.pixel_threshold is None else values > one.pixel_threshold
    for kind in kinds:
        path = folder / _file(kind, one.stem, map_format)
        if kind == "maps":
            write_map(path, values, map_format, span)
            continue
        if kind == "heatmaps":
            drawn = Image.fromarray(maps.heatmap(values, vmin=low, vmax=high))
        elif kind == "overlays":
            drawn = maps.overlay(one.picture(), values, vmin=low, vmax=high, mask=mask, seen=one.seen, colorbar=colorbar)
        elif mask is None:
            raise InputError("masks need a threshold: fit calibrates one, or give --pixel-threshold")
        else:
            drawn = Image.fromarray((mask * 255).astype(np.uint8))
        drawn.save(path, compress_level=COMPRESS_LEVEL)


class _Stems:
    """One file name per image: its stem, numbered where several images share it."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._numbers: dict[str, int] = {}  # of a stem, the last one given

    def __call__(self, name: str) -> str:
        stem = base = _shortened(Path(name).stem) or "image"
        while stem in self._used:
            self._numbers[base] = self._numbers.get(base, 1) + 1
            stem = f"{base}_{self._numbers[base]}"
        self._used.add(stem)
        return stem


def unique_stems(names: Iterable[str]) -> list[str]:
    """One file name per image, as `score` gives them."""
    return list(map(_Stems(), names))


def _shortened(stem: str) -> str:
    """At most 200 bytes, so that a number and another suffix still make a file name."""
    return os.fsencode(stem)[:200].decode(sys.getfilesystemencoding(), "ignore") if len(os.fsencode(stem)) > 200 else stem
