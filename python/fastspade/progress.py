"""Progress bars: shown on a terminal unless switched off."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress_bar(total: int | None, what: str, enabled: bool = True) -> tqdm:
    """A tqdm bar over images; silent when `enabled` is false or standard error is not a terminal."""
    return tqdm(total=total, desc=what, unit="image", disable=not (enabled and sys.stderr.isatty()))
