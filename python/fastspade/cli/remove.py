"""`fastspade remove`: normal images out of a model, by ids or names."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence

from fastspade.cli.model import holding, keep, load_model
from fastspade.errors import InputError


def run(arguments: argparse.Namespace) -> int:
    with holding(arguments.model):
        model = load_model(arguments)
        bank = model.fitted_bank()
        known = _by_name(bank.ids, bank.names)
        ids = set(bank.ids)
        chosen = [_id_of(text, ids, known) for text in arguments.images]
        model.remove(chosen)
        print(f"removed {len(chosen)} images")
        return keep(arguments, model)


def _by_name(ids: Sequence[int], names: Sequence[str]) -> dict[str, list[int]]:
    known: dict[str, list[int]] = {}
    for number, name in zip(ids, names, strict=True):
        known.setdefault(name, []).append(number)
    return known


def _id_of(text: str, ids: Collection[int], known: Mapping[str, list[int]]) -> int:
    """The image that an id or a name stands for. known: the ids of every name."""
    found = known.get(text, [])
    if len(found) > 1:
        raise InputError(f"{text} is the name of several images; give one of the ids {', '.join(map(str, found))}")
    if not found and not (text.isdecimal() and int(text) in ids):
        raise InputError(f"{text} is neither the id nor the name of an image of the model")
    return found[0] if found else int(text)
