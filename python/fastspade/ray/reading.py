"""The images of a part as entries that Spade decodes in its own threads."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fastspade.decode import Decoded, check_array, decode_array, read_file, standardise
from fastspade.errors import FastspadeError, ImageReadError
from fastspade.images import Entry
from fastspade.ray.sources import FilePart, Part, RowPart
from fastspade.ray.storage import Place

ROWS_AT_ONCE = 64  # of a parquet file, so that a large row group is not held whole


def part_entries(part: Part) -> list[Entry]:
    """One entry an image. Rows of a parquet file are read here; files are read when their entry is loaded."""
    if isinstance(part, FilePart):
        return [Entry(place.name, _loader(place)) for place in part.places]
    try:
        return [Entry(name, lambda name=name, data=data: decode_value(name, data)) for name, data in _rows(part)]
    except pa.ArrowInvalid as error:
        raise ImageReadError(f"cannot read rows {part.start} to {part.stop} of {part.place.name}: {error}", part.place.name) from error


def row_entries(rows: Mapping[str, np.ndarray], image_column: str, name_column: str) -> list[Entry]:
    """The rows of a Ray dataset's batch: encoded bytes, or arrays as ray.data.read_images makes them."""
    return [
        Entry(str(name), lambda name=name, value=value: decode_value(str(name), value))
        for name, value in zip(rows[name_column], rows[image_column], strict=True)
    ]


def decode_value(name: str, value: Any) -> Decoded:
    """Encoded bytes, a struct with a field "bytes", or an array (H, W, C). Raises ImageReadError naming the image."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    try:
        if isinstance(value, np.ndarray):
            check_array("image", value)
            return decode_array(value)
        if not value:
            raise ValueError("there are no bytes")
        with Image.open(io.BytesIO(value)) as image:
            image.load()
            return standardise(image)
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ValueError, EOFError, struct.error, ...
        reason = str(error) if isinstance(error, FastspadeError) else f"{type(error).__name__}: {error}"
        raise ImageReadError(f"cannot read image {name}: {reason}", name) from error


def _loader(place: Place):
    if place.is_local:
        return lambda: read_file(place.path)
    return lambda: decode_value(place.name, place.read())


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
