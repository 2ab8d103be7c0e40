"""A fastspade command that tells when it reads its N-th image and then waits, so that a test can stop it at its work.

    python interrupted_command.py N fit DIR -o MODEL ...
"""

from __future__ import annotations

import sys
import time
from typing import Any

import fastspade.images
from fastspade.cli import main

read_file = fastspade.images.read_file
left = int(sys.argv[1])


def announced(*arguments: Any, **named: Any) -> Any:
    global left
    left -= 1
    if left == 0:
        print("read", flush=True)
        time.sleep(2)  # a decoding thread, which no signal wakes: the work cannot end before the signal has come
    return read_file(*arguments, **named)


if __name__ == "__main__":
    fastspade.images.read_file = announced
    sys.exit(main(sys.argv[2:]))
