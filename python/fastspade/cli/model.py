"""What several commands do with a model: load it, hold it while it is changed, describe it, tell what was left out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastspade.bank.lock import held
from fastspade.cli.parser import options_of
from fastspade.spade import Spade


def load_model(arguments: argparse.Namespace) -> Spade:
    """The model that MODEL names, with the options that the command line gave."""
    return Spade.load(arguments.model, **options_of(arguments))


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


def describe(path: Path, model: Spade) -> str:
    """How many images a saved model holds, and its size on disk."""
    files = [path] if path.is_file() else list(path.iterdir())
    return f"{path}: {len(model.fitted_bank())} normal images, {sum(file.stat().st_size for file in files) / 2**20:.1f} MiB"


def tell_skipped(model: Spade) -> None:
    for name, error in model.skipped:
        print(f"skipped {name}: {error}", file=sys.stderr)


def keep(arguments: argparse.Namespace, model: Spade) -> int:
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
