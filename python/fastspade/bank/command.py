"""What `fastspade add` and `fastspade remove` do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastspade.bank.lock import held
from fastspade.errors import InputError
from fastspade.spade import Spade


@contextmanager
def holding(model: str) -> Iterator[None]:
    """Holds a single file from its reading to its writing, so that of two commands neither loses what the other did. A
    folder is held by whoever writes there. Raises BankLockedError."""
    path = Path(model)
    if path.is_file():
        with held(path, path):
            yield
    else:
        yield


def add(arguments: argparse.Namespace, model: Spade) -> int:
    """Add images to a model and keep it."""
    ids = model.add(arguments.images, skip_bad=arguments.skip_bad)
    print(f"added {len(ids)} images, ids {ids[0]} to {ids[-1]}")
    for name, error in model.skipped:
        print(f"skipped {name}: {error}", file=sys.stderr)
    return _keep(arguments, model)


def remove(arguments: argparse.Namespace, model: Spade) -> int:
    """Take images out of a model, by ids or names, and keep it."""
    bank = model._fitted()
    ids = [_id_of(text, bank.ids, bank.names) for text in arguments.images]
    model.remove(ids)
    print(f"removed {len(ids)} images")
    return _keep(arguments, model)


def _id_of(text: str, ids: Sequence[int], names: Sequence[str]) -> int:
    """The image that an id or a name stands for."""
    found = [number for number, name in zip(ids, names, strict=True) if name == text]
    if len(found) > 1:
        raise InputError(f"{text} is the name of several images; give one of the ids {', '.join(map(str, found))}")
    if not found and not (text.isdecimal() and int(text) in ids):
        raise InputError(f"{text} is neither the id nor the name of an image of the model")
    return found[0] if found else int(text)


def _keep(arguments: argparse.Namespace, model: Spade) -> int:
    """The threshold anew if asked for, and the model saved, as far as it was not by its change."""
    had = model.threshold is not None
    if arguments.calibrate:
        model.calibrate(arguments.target_fpr, arguments.pixel_target_fpr)
    if arguments.calibrate or Path(arguments.model).is_file():
        model.save(arguments.model)
    print(describe(Path(arguments.model), model))
    if had and not arguments.calibrate:
        print("the threshold is no longer used; --calibrate finds it anew", file=sys.stderr)
    return 0


def describe(path: Path, model: Spade) -> str:
    """How many images a saved model holds, and its size on disk."""
    files = [path] if path.is_file() else list(path.iterdir())
    return f"{path}: {len(model._fitted())} normal images, {sum(file.stat().st_size for file in files) / 2**20:.1f} MiB"
