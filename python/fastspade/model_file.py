"""A fitted model on disk: one safetensors file whose header holds JSON metadata. Never pickle."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fastspade._version import __version__
from fastspade.bank import Bank
from fastspade.errors import MissingFileError, ModelFileError

FORMAT = "fastspade-model"
FORMAT_VERSION = 1


def write_atomically(path: Path, data: bytes) -> None:
    """Either the whole of `data` is at `path` afterwards, or what was there before: written aside, synced, renamed."""
    path = Path(path)
    if not path.parent.is_dir():
        raise MissingFileError(f"path: the folder {path.parent} does not exist; create it before saving {path.name}")
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_model(path: str | Path, bank: Bank, options: dict[str, Any], backbone: dict[str, Any]) -> None:
    """Save a bank with the options and the backbone (its spec) that it was made with."""
    tensors = {"embeddings": bank.embeddings.contiguous()}
    tensors |= {f"level{i}": level.contiguous() for i, level in enumerate(bank.pyramid)}
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "fastspade": __version__,
        "options": options,
        "backbone": backbone,
        "names": list(bank.names),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
    }
    write_atomically(Path(path), save(tensors, metadata={"fastspade": json.dumps(header)}))


def read_model(path: str | Path) -> tuple[Bank, dict[str, Any]]:
    """The bank and the header of a model file. Raises MissingFileError, or ModelFileError saying what is wrong."""
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"path: no model file at {path}")

    def refuse(why: str) -> ModelFileError:
        return ModelFileError(f"path: {path} is not a usable fastspade model: {why}")

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("fastspade")
            if text is None:
                raise refuse("it has no fastspade header")
            header = json.loads(text)
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise refuse(f"its header does not say {FORMAT!r}")
            if header.get("version") != FORMAT_VERSION:
                raise refuse(f"format version {header.get('version')!r}, but this fastspade reads version {FORMAT_VERSION}")
            shapes = header["shapes"]
            if set(file.keys()) != set(shapes) or "embeddings" not in shapes or "level0" not in shapes:
                raise refuse("its tensors are not those its header lists")
            tensors = {name: file.get_tensor(name) for name in shapes}
            names, options, backbone = tuple(header["names"]), header["options"], header["backbone"]
            if not isinstance(options, dict) or not isinstance(backbone, dict):
                raise refuse("its header is incomplete")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise refuse(f"{type(error).__name__}: {error}") from error
    for name, tensor in tensors.items():
        if list(tensor.shape) != shapes[name] or tensor.dtype != torch.float32:
            raise refuse(f"tensor {name} is {tuple(tensor.shape)} {tensor.dtype}, its header says {shapes[name]} float32")
    levels = tuple(tensors[f"level{i}"] for i in range(len(tensors) - 1) if f"level{i}" in tensors)
    if len(levels) != len(tensors) - 1 or any(level.ndim != 4 for level in levels) or tensors["embeddings"].ndim != 2:
        raise refuse("its tensors do not form a pyramid")
    if any(len(level) != len(names) for level in levels) or len(tensors["embeddings"]) != len(names):
        raise refuse(f"it names {len(names)} images, but its tensors hold another number")
    return Bank(tensors["embeddings"], levels, names), header
