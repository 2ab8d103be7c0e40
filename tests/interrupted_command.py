"""A fastspade command that tells of every image it reads, so that a test can stop it in the middle of its work.

    python interrupted_command.py fit DIR -o MODEL ...
"""

from __future__ import annotations

import sys
import time
from typing import Any

import fastspade.images
from fastspade.cli import main

read_file = fastspade.images.read_file


def announced(*arguments: Any, **named: Any) -> Any:
    print("read", flush=True)
    time.sleep(0.03)  # long enough for what the test does upon it to meet the work that follows
    return read_file(*arguments, **named)


if __name__ == "__main__":
    fastspade.images.read_file = announced
    sys.exit(main(sys.argv[1:]))
