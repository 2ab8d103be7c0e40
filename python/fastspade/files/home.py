"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """`path` with the home folder in place of a leading ~, as a shell has it, unless something of that very name lies there."""
    text = os.fspath(path)
    return Path(os.path.expanduser(text) if text.startswith("~") and not os.path.lexists(text) else text)
