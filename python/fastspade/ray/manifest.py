"""The manifest of a run: what its scores depend on, so that only the very same run is resumed into its output."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastspade._version import __version__
from fastspade.errors import InputError, MissingFileError
from fastspade.ray.storage import Place
from fastspade.spade import Spade

FORMAT, FORMAT_VERSION = "fastspade-scores", 1
MANIFEST = "_manifest.json"  # readers of parquet folders leave out names with an underscore


def model_fingerprint(model: str | os.PathLike[str] | Spade) -> str:
    """SHA-256 (hex) of a saved model's file, of a model folder's manifest (it holds checksums), or of a fitted Spade."""
    digest = hashlib.sha256()
    if isinstance(model, Spade):
        bank = model.fitted_bank().snapshot
        known = None if model.threshold is None else model.threshold.as_dict()
        described = {"options": model.options(), "threshold": known, "backbone": model.backbone.spec(), "names": list(bank.names)}
        digest.update(json.dumps(described, sort_keys=True).encode())
        for tensor in (bank.embeddings, *bank.pyramid):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()
    path = Path(model)
    if path.is_dir():
        path = path / "manifest.json"
    if not path.is_file():
        raise MissingFileError(f"model: no saved model at {model}")
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def claim(output: Place, run: Mapping[str, Any]) -> bool:
    """Make `output` this run's, or find that it is already: returns whether it was.

    run: what the scores depend on, JSON-able. Raises InputError where the folder holds another run, or other files.
    """
    place = output.join(MANIFEST)
    mine = {"format": FORMAT, "version": FORMAT_VERSION, "fastspade": __version__} | json.loads(json.dumps(run))
    if not place.exists():
        if output.exists() and output.files(recursive=False):
            raise InputError(f"output: {output.name} holds files but no {MANIFEST}; name a new folder")
        output.make_folder()
        place.write((json.dumps(mine, indent=2) + "\n").encode())
        return False
    try:
        known = json.loads(place.read())
        if known["format"] != FORMAT or known["version"] != FORMAT_VERSION:
            raise ValueError(f"format {known['format']!r}, version {known['version']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"output: {place.name} is not a manifest that this fastspade reads: {error}") from error
    if differing := _differences(known, mine):
        raise InputError(
            f"output: {output.name} holds another run, begun with {'; '.join(differing)}; "
            "name a new folder, or repeat the run as it was begun"
        )
    return True


def _differences(known: Mapping[str, Any], mine: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(set(known) | set(mine)):
        before, now = known.get(key), mine.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append(f"{prefix}{key} {_short(before)}, now {_short(now)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + '..."'
