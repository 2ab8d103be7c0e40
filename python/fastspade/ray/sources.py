"""What is to be scored, cut into parts: the unit of work, of output and of resumption.

A part is a fixed run of images of a fixed order, so the same source is always cut the same way.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fastspade.errors import ImageReadError, InputError, MissingFileError
from fastspade.images import SUFFIXES
from fastspade.images.paths import find
from fastspade.ray.storage import FileSystem, Place, locate

IMAGE_COLUMNS = ("image", "bytes")  # looked for where image_column is not given
Source = str | os.PathLike[str]


@dataclass(frozen=True)
class FilePart:
    """A run of image files."""

    places: tuple[Place, ...]

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class RowPart:
    """Rows start to stop of a parquet file, which lie in row groups first to last (not included), the first at row `base`."""

    place: Place
    start: int
    stop: int
    first: int
    last: int
    base: int
    image_column: str
    name_column: str | None

    def __len__(self) -> int:
        return self.stop - self.start


Part = FilePart | RowPart


@dataclass(frozen=True)
class Listing:
    """All parts, in order. kind: "files" or "parquet". images: their number. fingerprint: changes with what is listed."""

    kind: str
    parts: list[Part]
    images: int
    fingerprint: str


def list_source(
    images: Source | Sequence[Source],
    images_per_part: int,
    *,
    image_column: str | None = None,
    name_column: str | None = None,
    filesystem: FileSystem | None = None,
) -> Listing:
    """Find all images of files, folders (searched in depth), globs and parquet files, and cut them into parts.

    Raises MissingFileError, ImageReadError and InputError, naming what was given.
    """
    given = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    if not given:
        raise InputError("images must hold at least one path or URI, got none")
    found: list[tuple[Place, int]] = []
    for item in given:
        found += _find(locate(item, "images", filesystem))
    tables = [place for place, _ in found if place.path.lower().endswith(".parquet")]
    if not tables and (image_column or name_column):
        raise InputError("image_column and name_column are for parquet files, but images holds none")
    if tables and len(tables) != len(found):
        raise InputError("images must be image files or parquet files, got both; name one kind")
    path, times = Counter(place.path for place, _ in found).most_common(1)[0]
    if times > 1:
        raise InputError(f"images must name every file once, got {path} {times} times")
    digest = hashlib.sha256()
    if tables:
        parts: list[Part] = []
        for place, size in found:
            cut = _cut_table(place, images_per_part, image_column, name_column)
            parts += cut
            digest.update(f"{place.name}\0{size}\0{sum(map(len, cut))}\n".encode())
    else:
        places = [place for place, _ in found]
        parts = [FilePart(tuple(places[i : i + images_per_part])) for i in range(0, len(places), images_per_part)]
        for place, size in found:
            digest.update(f"{place.name}\0{size}\n".encode())
    return Listing("parquet" if tables else "files", parts, sum(map(len, parts)), digest.hexdigest())


def _find(place: Place) -> list[tuple[Place, int]]:
    """(file, its size) of every image or parquet file that a path, folder or local glob names, sorted."""
    info = place.info()
    if info.type == pafs.FileType.File:
        suffix = os.path.splitext(place.path)[1].lower()
        if suffix and suffix not in SUFFIXES and suffix != ".parquet":
            raise ImageReadError(f"images: {place.name} is neither of an image type nor parquet", place.name)
        return [(place, info.size)]
    if place.is_local:  # the same files as score and fit see
        found = find("images", place.path, SUFFIXES | {".parquet"})
        for _, error in found.bad:
            raise error
        _tell_left_out(place, [name for name, _ in found.left_out])
        return [(place.at(str(path)), os.path.getsize(path) if path.exists() else 0) for path in found.files]
    if info.type == pafs.FileType.Directory:
        others: set[str] = set()
        there = place.files(recursive=True, hidden=others)
        files = [one for one in there if _wanted(one.path)]
        if not files:
            raise MissingFileError(f"images: no image or parquet files in folder {place.name}")
        _tell_left_out(place, sorted(others.union(one.path for one in there if not _wanted(one.path))))
        return [(place.at(one.path), one.size) for one in files]
    raise MissingFileError(f"images: no such file or folder: {place.name}")


def _tell_left_out(place: Place, names: Sequence[str]) -> None:
    if names:
        warnings.warn(
            f"{place.name}: {len(names)} files or folders are no images, or hidden, and left out; the first is {names[0]}",
            stacklevel=2,
        )


def _wanted(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES | {".parquet"}


def _cut_table(place: Place, images_per_part: int, image_column: str | None, name_column: str | None) -> list[RowPart]:
    """Parts of one parquet file. Only its footer is read."""
    try:
        with pq.ParquetFile(place.path, filesystem=place.filesystem) as file:
            schema, meta = file.schema_arrow, file.metadata
            rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    except pa.ArrowInvalid as error:
        raise ImageReadError(f"images: {place.name} is not a readable parquet file: {error}", place.name) from error
    column = check_column("image_column", image_column, IMAGE_COLUMNS, schema.names, place.name)
    if not _holds_bytes(schema.field(column).type):
        raise InputError(
            f"image_column: column {column!r} of {place.name} must hold encoded images as binary, "
            f"or a struct with such a field 'bytes'; it holds {schema.field(column).type}"
        )
    if name_column is not None:
        check_column("name_column", name_column, (), schema.names, place.name)
    starts = [0]
    for count in rows:
        starts.append(starts[-1] + count)
    parts = []
    for start in range(0, starts[-1], images_per_part):
        stop = min(start + images_per_part, starts[-1])
        first, last = bisect_right(starts, start) - 1, bisect_left(starts, stop)
        parts.append(RowPart(place, start, stop, first, last, starts[first], column, name_column))
    return parts


def check_column(argument: str, name: str | None, usual: Sequence[str], columns: Sequence[str], where: str) -> str:
    """The column to read: the one named, or the first usual one that there is."""
    if name is None:
        name = next((one for one in usual if one in columns), None)
        if name is None:
            raise InputError(f"{argument} must be given: {where} has none of {', '.join(usual)}, only {', '.join(columns)}")
    if name not in columns:
        raise InputError(f"{argument} must be a column of {where} ({', '.join(columns)}), got {name!r}")
    return name


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0) and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))
