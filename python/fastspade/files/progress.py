"""What is said on standard error while work is done: progress bars, shown on a terminal unless switched off, and lines."""

from __future__ import annotations

import sys
from collections.abc import Sized
from typing import Any

from tqdm import tqdm


def progress_bar(total: int | None, what: str, enabled: bool = True) -> tqdm:
    """A tqdm bar over images; silent when `enabled` is false or standard error is not a terminal."""
    return tqdm(total=total, desc=what, unit="image", disable=not (enabled and on_terminal(sys.stderr)))


def tell(line: str) -> None:
    """A line on standard error; where that cannot be written the line is lost, and the command goes on."""
    try:
        if sys.stderr is not None:  # print would take standard output instead
            print(line, file=sys.stderr)
    except (OSError, ValueError):
        pass


def on_terminal(stream: Any) -> bool:
    """Also of standard streams that are missing (None), closed, or objects without isatty."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError, OSError):
        return False


def known_length(items: Sized) -> int | None:
    """How many there are, or None for streams that cannot tell."""
    try:
        return len(items)
    except TypeError:
        return None
