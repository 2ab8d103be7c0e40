"""The manifest of a bank folder: what the bank is, and which shards hold it. JSON, with its own checksum in front.

    {"sha256": "<of the bytes that follow, up to the last brace>", "bank": {...}}

Every byte is covered. What it says is checked for type and range before anything is done with it, and files are named by
pattern, so that no path leads out of the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastspade._version import __version__
from fastspade.bank.layout import Layout
from fastspade.bank.shard import ShardRecord, open_regular
from fastspade.bank.shard_writer import MOST_IMAGES
from fastspade.bank.snapshot import STORAGE_DTYPES
from fastspade.errors import ModelFileError, StorageError
from fastspade.files.atomic import replacing

NAME = "manifest.json"
FORMAT, FORMAT_VERSION = "fastspade-bank", 1
SHARD_NAME = re.compile(r"shard-[0-9a-f]{32}\.safetensors")
MOST_BYTES = 4 << 20  # thousands of shards; parsing it never takes more than 100 MiB
MOST_LEVELS, MOST_NUMBER = 64, 1 << 48
_FORM = re.compile(rb'\{"sha256": "([0-9a-f]{64})", "bank": (.*)\}\n', re.DOTALL)


@dataclass(frozen=True)
class Manifest:
    """layout: of every shard. shards: in the bank's order. next_id: what the next image will get. generation: raised by
    every write. options: of the Spade whose bank it is, None without one. made_by: the extractor's spec, None if unknown."""

    layout: Layout
    shards: tuple[ShardRecord, ...]
    next_id: int
    generation: int
    options: dict[str, Any] | None
    made_by: dict[str, Any] | None

    def encode(self) -> bytes:
        body = json.dumps(
            {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "fastspade": __version__,
                "generation": self.generation,
                "next_id": self.next_id,
                "levels": [list(shape) for shape in self.layout.shapes],
                "embedding": self.layout.embedding,
                "dtype": self.layout.dtype,
                "options": self.options,
                "made_by": self.made_by,
                "shards": [
                    {
                        "file": shard.file,
                        "images": shard.images,
                        "name_bytes": shard.name_bytes,
                        "sha256": shard.sha256,
                        "gone": _as_bits(shard.gone, shard.images),
                    }
                    for shard in self.shards
                ],
            },
            indent=1,
        ).encode()
        return sealed(body)

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Raises ValueError, saying what is wrong."""
        form = _FORM.fullmatch(data)
        if form is None:
            raise ValueError("it does not have the form of a manifest")
        if hashlib.sha256(form[2]).hexdigest() != form[1].decode():
            raise ValueError("it has been altered (checksum)")
        values = json.loads(form[2])
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"it does not say {FORMAT!r}")
        if values.get("version") != FORMAT_VERSION:
            raise ValueError(f"format version {values.get('version')!r}, but this fastspade reads version {FORMAT_VERSION}")
        shapes = tuple(tuple(_number(side, "a level's side", 1) for side in shape) for shape in _list(values, "levels"))
        if not 1 <= len(shapes) <= MOST_LEVELS or any(len(shape) != 3 for shape in shapes):
            raise ValueError("its levels are not of three sides each")
        if any(fine[1] < coarse[1] or fine[2] < coarse[2] for fine, coarse in zip(shapes, shapes[1:])):
            raise ValueError("its levels are not ordered finest first")
        if values["dtype"] not in STORAGE_DTYPES:
            raise ValueError(f"its dtype is {values['dtype']!r}, not one of {', '.join(STORAGE_DTYPES)}")
        levels = tuple((shape[0], shape[1], shape[2]) for shape in shapes)
        layout = Layout(levels, _number(values["embedding"], "embedding", 1), values["dtype"])
        _number(layout.image_bytes, "an image's size", 1)
        shards = tuple(_shard(shard) for shard in _list(values, "shards"))
        if not any(len(shard.gone) < shard.images for shard in shards):
            raise ValueError("it holds no images")
        if len({shard.file for shard in shards}) != len(shards):
            raise ValueError("it names a shard twice")
        for name in ("options", "made_by"):
            if values[name] is not None and not isinstance(values[name], dict):
                raise ValueError(f"its {name} are not an object")
        if values["made_by"] is not None and not isinstance(values["made_by"].get("backbone"), dict):
            raise ValueError("its made_by names no backbone")
        next_id, generation = (_number(values[name], name, 0) for name in ("next_id", "generation"))
        return cls(layout, shards, next_id, generation, values["options"], values["made_by"])


def sealed(body: bytes) -> bytes:
    """A manifest file of these contents."""
    return b'{"sha256": "%s", "bank": %s}\n' % (hashlib.sha256(body).hexdigest().encode(), body)


def read_manifest(folder: Path) -> Manifest:
    """Raises FileNotFoundError where there is none, ModelFileError saying what is wrong with it."""
    path = folder / NAME
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(MOST_BYTES + 1)
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        return Manifest.decode(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        why = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ModelFileError(f"path: {path} is not a usable manifest of a fastspade bank: {why}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The swap: afterwards the bank is what `manifest` says, before it was what the last one said."""
    data = manifest.encode()
    if len(data) > MOST_BYTES:
        raise StorageError(f"path: the manifest of {folder} would have {len(data)} bytes, more than the {MOST_BYTES} allowed")
    with replacing(folder / NAME) as aside:
        aside.write_bytes(data)


def _shard(values: Any) -> ShardRecord:
    file, sha = values["file"], values["sha256"]
    if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
        raise ValueError(f"it names a file {str(file)[:80]!r}, which is not a shard's name")
    if not isinstance(sha, str) or not re.fullmatch("[0-9a-f]{64}", sha):
        raise ValueError(f"the checksum of {file} is not one")
    images = _number(values["images"], f"images of {file}", 1, MOST_IMAGES)
    return ShardRecord(file, images, _number(values["name_bytes"], "name_bytes", 0), sha, _from_bits(values["gone"], images))


def _number(value: Any, name: str, least: int, most: int = MOST_NUMBER) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {str(value)[:40]!r}")
    return value


def _list(values: dict[str, Any], name: str) -> list[Any]:
    found = values[name]
    if not isinstance(found, list):
        raise ValueError(f"its {name} are not a list")
    return found


def _as_bits(gone: frozenset[int], images: int) -> str:
    """One bit per image, in hexadecimal; empty where none is gone."""
    if not gone:
        return ""
    bits = np.zeros(images, dtype=bool)
    bits[list(gone)] = True
    return np.packbits(bits).tobytes().hex()


def _from_bits(text: Any, images: int) -> frozenset[int]:
    if text == "":
        return frozenset()
    if not isinstance(text, str) or not re.fullmatch("([0-9a-f]{2})+", text) or len(text) // 2 != -(-images // 8):
        raise ValueError("what is gone of a shard is not a bit an image")
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    if bits[images:].any():
        raise ValueError("what is gone of a shard names images beyond its end")
    return frozenset(bits.nonzero()[0].tolist())
