"""`fastspade remove`: normal images out of a model, by ids or names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fastspade.cli.model import holding, keep, load_model
from fastspade.errors import InputError
from fastspade.images.views import ViewName


def run(arguments: argparse.Namespace) -> int:
    with holding(arguments.model):
        model = load_model(arguments)
        bank = model.fitted_bank()
        ids = [number for text in arguments.images for number in _ids_of(text, bank.ids, bank.names)]
        model.remove(ids)
        print(f"removed {len(arguments.images)} images")
        return keep(arguments, model)


def _ids_of(text: str, ids: Sequence[int], names: Sequence[str]) -> list[int]:
    """What an id or a name stands for: one entry, or of a name all tiles and turned copies of that image."""
    found = [number for number, name in zip(ids, names, strict=True) if name == text]
    if len(found) > 1:
        raise InputError(f"{text} is the name of several images; give one of the ids {', '.join(map(str, found))}")
    views = [number for number, name in zip(ids, names, strict=True) if ViewName.parse(name).picture == text]
    if found or views:
        return views or found
    if text.isdecimal() and int(text) in ids:
        return [int(text)]
    raise InputError(f"{text} is neither the id nor the name of an image of the model")
