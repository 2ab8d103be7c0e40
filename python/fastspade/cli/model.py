"""What several commands do with a model: load it, hold it while it is changed, describe it, tell what was left out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastspade.bank.lock import held
from fastspade.cli.parser import options_of
from fastspade.errors import LeftOutError
from fastspade.files.home import user_path
from fastspade.files.progress import tell
from fastspade.images.further import Further
from fastspade.spade import Spade


def load_model(arguments: argparse.Namespace) -> Spade:
    """The model that MODEL names, with the options that the command line gave."""
    return Spade.load(arguments.model, **options_of(arguments))


@contextmanager
def holding(model: str) -> Iterator[None]:
    """Holds a single file from its reading to its writing, so that of two commands neither loses what the other did. A
    folder is held by its writer. Raises BankLockedError."""
    path = user_path(model)
    if path.is_file():
        with held(path, path):
            yield
    else:
        yield


def describe(path: Path, model: Spade) -> str:
    """How many images a saved model holds, and its size on disk."""
    files = [path] if path.is_file() else list(path.iterdir())
    return f"{path}: {len(model.fitted_bank())} normal images, {sum(file.stat().st_size for file in files) / 2**20:.1f} MiB"


def tell_skipped(skipped: Sequence[tuple[str, Exception]], shown: int = 3) -> None:
    """A line for everything that could not be read, one for all that lay there and is no image, and one for all pages and frames
    that are not read."""
    left_out = [name for name, error in skipped if isinstance(error, LeftOutError) and not error.further]
    for name, error in skipped:
        if not isinstance(error, LeftOutError):
            tell(f"skipped {name}: {error}")
    if left_out:
        more = f" and {len(left_out) - shown} more" if len(left_out) > shown else ""
        tell(f"left out {len(left_out)} that are no images or hidden: {', '.join(left_out[:shown])}{more}")
    if (further := Further.of(skipped)).pictures:
        tell(str(further))


def keep(arguments: argparse.Namespace, model: Spade) -> int:
    """The threshold anew if asked for, and the model saved, as far as it was not by its change."""
    had = model.threshold is not None
    if arguments.calibrate:
        model.calibrate(arguments.target_fpr, arguments.pixel_target_fpr)
    if arguments.calibrate or user_path(arguments.model).is_file():
        model.save(arguments.model)
    print(describe(user_path(arguments.model), model))
    if had and not arguments.calibrate:
        tell("the threshold is no longer used; --calibrate finds it anew")
    return 0
