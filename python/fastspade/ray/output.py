"""What a run writes: one parquet file per part with one row per image, and how to read the maps in it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fastspade.errors import FastspadeError
from fastspade.ray.storage import Place
from fastspade.spade.result import ScoredImage

SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("score", pa.float64()),  # null where the image could not be read
        pa.field("decision", pa.bool_()),  # null without a threshold
        pa.field("map", pa.binary()),  # PNG, 16-bit grey
        pa.field("map_low", pa.float32()),  # the map's value where the PNG is 0 ...
        pa.field("map_high", pa.float32()),  # ... and where it is 65535
        pa.field("neighbors", pa.list_(pa.int64())),
        pa.field("neighbor_distances", pa.list_(pa.float32())),
        pa.field("error", pa.string()),  # why the image could not be read
    ]
)
_EMPTY = dict.fromkeys(SCHEMA.names)
_FAST = 1  # PNG compression level: higher ones take twice the time and save a hundredth on smooth 16-bit maps


def encode_map(values: np.ndarray) -> tuple[bytes, float, float]:
    """A map (H, W) float32 as a 16-bit PNG over its own range, and that range."""
    low, high = float(values.min()), float(values.max())
    unit = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    file = io.BytesIO()
    Image.fromarray(np.rint(unit * 65535).astype(np.uint16)).save(file, format="PNG", compress_level=_FAST)
    return file.getvalue(), low, high


def decode_map(row: Mapping[str, Any]) -> np.ndarray:
    """The map of a row, (H, W) float32, to within half a step: (map_high - map_low) / 131070.

    row: a mapping with map, map_low and map_high, as pyarrow's Table.to_pylist gives.
    """
    with Image.open(io.BytesIO(row["map"])) as image:
        pixels = np.asarray(image, dtype=np.float64)
    values: np.ndarray = row["map_low"] + pixels / 65535 * (row["map_high"] - row["map_low"])
    return values.astype(np.float32)


def start_row(image: ScoredImage, with_map: bool, pool: Executor) -> Future[dict[str, Any]]:
    """The row of a scored image, made in the pool: compressing a map takes about as long as scoring an image on a GPU."""
    return pool.submit(_row, image, with_map)


def _row(image: ScoredImage, with_map: bool) -> dict[str, Any]:
    row = _EMPTY | {
        "name": image.name,
        "score": image.score,
        "decision": None if image.threshold is None else image.is_defect,
        "neighbors": image.neighbors.tolist(),
        "neighbor_distances": image.neighbor_distances.tolist(),
    }
    if with_map:
        row["map"], row["map_low"], row["map_high"] = encode_map(image.anomaly_map)
    return row


def unreadable_row(name: str, error: FastspadeError) -> dict[str, Any]:
    return _EMPTY | {"name": name, "error": str(error)}


def part_bytes(rows: Sequence[Mapping[str, Any]], about: Mapping[str, str]) -> bytes:
    """The parquet file of a part. about: goes into its metadata."""
    table = pa.Table.from_pylist(list(rows), SCHEMA.with_metadata(dict(about)))
    file = io.BytesIO()
    # Maps are compressed already; the other columns are small.
    pq.write_table(table, file, compression={name: "none" if name == "map" else "zstd" for name in _leaves()})
    return file.getvalue()


def part_counts(place: Place) -> tuple[int, int]:
    """Images in a part that was written, and how many of them could not be read."""
    errors = pq.read_table(place.path, filesystem=place.filesystem, columns=["error"]).column("error")
    return len(errors), len(errors) - errors.null_count


def _leaves() -> list[str]:
    """The paths of SCHEMA's columns as the parquet writer names them."""
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in SCHEMA]
