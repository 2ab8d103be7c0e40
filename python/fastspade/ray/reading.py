"""The images of a part as entries that Spade decodes in its own threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastspade.errors import DtypeError, ImageReadError, InputError
from fastspade.images import Entry
from fastspade.images.decode import Decoded, check_array, decode_array, read_file, standardise
from fastspade.images.safe_file import opened_bytes
from fastspade.ray.sources import FilePart, Part, RowPart
from fastspade.ray.storage import Place

ROWS_AT_ONCE = 64  # of a parquet file, so that a large row group is not held whole


def part_entries(part: Part, max_pixels: int | None) -> list[Entry]:
    """One entry per image. Rows of a parquet file are read here; files are read when their entry is loaded."""
    if isinstance(part, FilePart):
        return [Entry(place.name, _loader(place, max_pixels)) for place in part.places]
    try:
        return [Entry(name, _decoder(name, data, max_pixels)) for name, data in _rows(part)]
    except pa.ArrowInvalid as error:
        raise ImageReadError(
            f"cannot read rows {part.start} to {part.stop} of {part.place.name}: {error}", part.place.name
        ) from error


def row_entries(rows: Mapping[str, np.ndarray], image_column: str, name_column: str, max_pixels: int | None) -> list[Entry]:
    """The rows of a Ray dataset's batch: encoded bytes, or arrays as ray.data.read_images makes them."""
    return [
        Entry(str(name), _decoder(str(name), value, max_pixels))
        for name, value in zip(rows[name_column], rows[image_column], strict=True)
    ]


def decode_value(name: str, value: Any, max_pixels: int | None) -> Decoded:
    """Encoded bytes, a struct with a field "bytes", or an array (H, W, C). Raises ImageReadError naming the image."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    try:
        if isinstance(value, np.ndarray):
            check_array("image", value)
            return decode_array(value)
        if not isinstance(value, bytes):
            raise InputError(f"it is {type(value).__name__}, not encoded bytes")
    except (InputError, DtypeError) as error:
        raise ImageReadError(f"cannot read image {name}: {error}", name) from error
    with opened_bytes(value, name, max_pixels) as image:
        return standardise(image)


def _decoder(name: str, value: Any, max_pixels: int | None) -> Callable[[], Decoded]:
    return partial(decode_value, name, value, max_pixels)


def _loader(place: Place, max_pixels: int | None) -> Callable[[], Decoded]:
    if place.is_local:
        return partial(read_file, place.path, max_pixels)
    return lambda: decode_value(place.name, place.read(), max_pixels)


def _rows(part: RowPart) -> Iterator[tuple[str, Any]]:
    columns = [part.image_column] if part.name_column is None else [part.image_column, part.name_column]
    with pq.ParquetFile(part.place.path, filesystem=part.place.filesystem, pre_buffer=False) as file:
        row = part.base
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=range(part.first, part.last), columns=columns):
            low, high = max(part.start - row, 0), min(part.stop - row, len(batch))
            if low < high:
                wanted = batch.slice(low, high - low)
                values = wanted.column(part.image_column).to_pylist()
                if part.name_column is None:
                    names = [f"{part.place.name}#{row + low + i}" for i in range(len(wanted))]
                else:
                    names = [str(name) for name in wanted.column(part.name_column).to_pylist()]
                yield from zip(names, values, strict=True)
            row += len(batch)
            if row >= part.stop:
                return
