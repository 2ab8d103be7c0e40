"""`fastspade remove`: normal images out of a model, by ids or names."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence

from fastspade.cli.model import holding, keep, load_model
from fastspade.errors import InputError
from fastspade.images.views import ViewName


def run(arguments: argparse.Namespace) -> int:
    with holding(arguments.model):
        model = load_model(arguments)
        bank = model.fitted_bank()
        known = _by_name(bank.ids, bank.names)
        ids = [number for text in arguments.images for number in _ids_of(text, set(bank.ids), known)]
        model.remove(ids)
        print(f"removed {len(arguments.images)} images")
        return keep(arguments, model)


def _by_name(ids: Sequence[int], names: Sequence[str]) -> dict[str, list[tuple[int, str]]]:
    """The (id, name) of every name, and of every picture that tiles and turned copies come from."""
    known: dict[str, list[tuple[int, str]]] = {}
    for number, name in zip(ids, names, strict=True):
        for key in {name, ViewName.parse(name).picture}:
            known.setdefault(key, []).append((number, name))
    return known


def _ids_of(text: str, ids: Collection[int], known: Mapping[str, list[tuple[int, str]]]) -> list[int]:
    """What an id or a name stands for: one entry, or of a name all tiles and turned copies of that image."""
    found = known.get(text, [])
    whole = [number for number, name in found if name == text]
    if len(whole) > 1:
        raise InputError(f"{text} is the name of several images; give one of the ids {', '.join(map(str, whole))}")
    if found:
        return [number for number, _ in found]
    if text.isdecimal() and int(text) in ids:
        return [int(text)]
    raise InputError(f"{text} is neither the id nor the name of an image of the model")
