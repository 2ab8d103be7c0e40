"""Standard output, which may be missing, closed, full, or a pipe that nobody reads: no command loses its work over that."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import TextIOWrapper
from typing import TextIO

from fastspade.errors import StorageError


@contextmanager
def usable_output() -> Iterator[None]:
    """What is printed inside goes nowhere if standard output is closed, and is on its way at the end.

    Raises BrokenPipeError where nobody reads it any more, and StorageError where there is no room for it.
    """
    if getattr(sys.stdout, "closed", False):
        with redirect_stdout(None):
            yield
        return
    errors = getattr(sys.stdout, "errors", None)
    if errors == "strict" and isinstance(sys.stdout, TextIOWrapper):  # a name beyond its encoding is written with escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except BaseException:
        with suppress(OSError):
            _flush(sys.stdout)
        raise
    _flush(sys.stdout)


def _flush(stream: TextIO | None) -> None:
    try:
        if stream is not None:
            stream.flush()
    except OSError as error:
        _discard(stream)
        if isinstance(error, BrokenPipeError):
            raise
        raise StorageError(f"standard output cannot be written: {error.strerror or error}") from error


def _discard(stream: TextIO | None) -> None:
    """What is left in the stream's buffer goes nowhere, so that Python does not complain of it when it ends."""
    try:
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass
