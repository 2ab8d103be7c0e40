"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastspade.errors import InputError


def check_output(output: Path) -> None:
    """Raises InputError unless `output` is new or an empty folder, in a folder that exists."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output: {output} exists and is not an empty folder; name a new one")
    if not output.absolute().parent.is_dir():
        raise InputError(f"output: the folder {output.absolute().parent} does not exist")


@contextmanager
def written_at_once(output: Path) -> Iterator[Path]:
    """Yields a folder beside `output` to write into, renamed to it at the end; after a failure nothing is left."""
    check_output(output)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.absolute().parent))
    try:
        yield aside
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o777 & ~umask)
        if output.exists():
            output.rmdir()
        os.replace(aside, output)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
