"""A folder for what is made once for all processes of a run; the first process that asks makes it, and removes it at its end."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def shared_folder() -> Path:
    if "FASTSPADE_TEST_SHARED" not in os.environ:
        folder = os.environ["FASTSPADE_TEST_SHARED"] = tempfile.mkdtemp(prefix="fastspade-tests-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(os.environ["FASTSPADE_TEST_SHARED"])
