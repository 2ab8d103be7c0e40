"""`fastspade remove`: normal images out of a model, by ids or names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fastspade.cli.model import holding, keep, load_model
from fastspade.errors import InputError


def run(arguments: argparse.Namespace) -> int:
    with holding(arguments.model):
        model = load_model(arguments)
        bank = model.fitted_bank()
        ids = [_id_of(text, bank.ids, bank.names) for text in arguments.images]
        model.remove(ids)
        print(f"removed {len(ids)} images")
        return keep(arguments, model)


def _id_of(text: str, ids: Sequence[int], names: Sequence[str]) -> int:
    """The image that an id or a name stands for."""
    found = [number for number, name in zip(ids, names, strict=True) if name == text]
    if len(found) > 1:
        raise InputError(f"{text} is the name of several images; give one of the ids {', '.join(map(str, found))}")
    if not found and not (text.isdecimal() and int(text) in ids):
        raise InputError(f"{text} is neither the id nor the name of an image of the model")
    return found[0] if found else int(text)
