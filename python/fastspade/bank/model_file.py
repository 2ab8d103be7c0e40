"""A fitted model in one safetensors file, whose header holds JSON metadata and checksums. Never pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fastspade._version import __version__
from fastspade.bank import Bank
from fastspade.bank.snapshot import STORAGE_DTYPES
from fastspade.errors import FastspadeError, MissingFileError, ModelFileError
from fastspade.files.atomic import replacing, storage_error
from fastspade.files.home import user_path

FORMAT = "fastspade-model"
FORMAT_VERSION = 1


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 (hex) of a tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def write_model(path: str | Path, bank: Bank, options: dict[str, Any], backbone: dict[str, Any]) -> None:
    """Save a bank with the options and the backbone (its spec) that it was made with.

    Raises MissingFileError where the folder does not exist, StorageError where the file cannot be written.
    """
    path, snapshot = user_path(path), bank.snapshot
    tensors = {"embeddings": snapshot.embeddings.contiguous()}
    tensors |= {f"level{i}": level.contiguous() for i, level in enumerate(snapshot.pyramid)}
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "fastspade": __version__,
        "options": options,
        "backbone": backbone,
        "names": list(snapshot.names),
        "ids": list(snapshot.ids),
        "next_id": snapshot.next_id,
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "sha256": {name: digest(tensor) for name, tensor in tensors.items()},
    }
    text = json.dumps(header)
    with replacing(path) as aside:
        try:
            save_file(tensors, aside, metadata={"fastspade": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
        except SafetensorError as error:
            raise storage_error(path, error) from error


def read_model(path: str | Path) -> tuple[Bank, dict[str, Any]]:
    """The bank and the header of a model file. Raises MissingFileError, or ModelFileError saying what is wrong.

    Every byte is verified, but for files of old versions, which hold no checksums.
    """
    path = user_path(path)
    if not path.is_file():
        raise MissingFileError(f"path: no model file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(file.metadata() or {})
            tensors = _tensors(file, header)
        return _bank(tensors, header), header
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file provokes
        why = str(error) if isinstance(error, (_Unusable, FastspadeError)) else f"{type(error).__name__}: {error}"
        raise ModelFileError(f"path: {path} is not a usable fastspade model: {why}") from error


class _Unusable(Exception):
    """What is wrong with a file."""


def _header(metadata: dict[str, str]) -> dict[str, Any]:
    text = metadata.get("fastspade")
    if text is None or set(metadata) - {"fastspade", "sha256"}:
        raise _Unusable("it has no fastspade header")
    header = json.loads(text)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _Unusable(f"its header does not say {FORMAT!r}")
    if header.get("version") != FORMAT_VERSION:
        raise _Unusable(f"format version {header.get('version')!r}, but this fastspade reads version {FORMAT_VERSION}")
    if metadata.get("sha256", hashlib.sha256(text.encode()).hexdigest()) != hashlib.sha256(text.encode()).hexdigest():
        raise _Unusable("its header has been altered (checksum)")
    if not isinstance(header["options"], dict) or not isinstance(header["backbone"], dict):
        raise _Unusable("its header is incomplete")
    return header


def _tensors(file: safe_open, header: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors, in memory of their own: the file may change later."""
    shapes, sums = header["shapes"], header.get("sha256")
    if set(file.keys()) != set(shapes) or "embeddings" not in shapes or "level0" not in shapes:
        raise _Unusable("its tensors are not those its header lists")
    tensors = {}
    for name in shapes:
        tensor = file.get_tensor(name)
        if list(tensor.shape) != shapes[name] or tensor.dtype not in STORAGE_DTYPES.values():
            raise _Unusable(f"tensor {name} is {tuple(tensor.shape)} {tensor.dtype}, its header says {shapes[name]} float")
        tensors[name] = tensor.clone()
        if sums is not None and digest(tensors[name]) != sums[name]:
            raise _Unusable(f"tensor {name} has been altered (checksum)")
        if not tensors[name].isfinite().all():
            raise _Unusable(f"tensor {name} holds NaN or infinity")
    return tensors


def _bank(tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> Bank:
    levels = [tensors[f"level{i}"] for i in range(len(tensors) - 1) if f"level{i}" in tensors]
    if len(levels) != len(tensors) - 1 or any(level.ndim != 4 or 0 in level.shape for level in levels):
        raise _Unusable("its tensors do not form a pyramid")
    names, ids, next_id = header["names"], header.get("ids"), header.get("next_id")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _Unusable("its names are not text")
    if ids is not None and not all(type(number) is int for number in [*ids, next_id]):
        raise _Unusable("its ids are not whole numbers")
    options = header["options"]
    made_by = {"backbone": header["backbone"], "resize": options.get("shared_size", options.get("resize"))}
    made_by |= {
        name: options[name] for name in ("crop", "local_average", "reflect_border", "tile", "overlap", "roi") if name in options
    }
    return Bank(tensors["embeddings"], levels, names, ids, next_id=next_id, made_by=made_by)
