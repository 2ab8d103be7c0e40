"""A fastspade command that stops at a moment of its work and says so, until its standard input ends: a test can interrupt it there.

    python interrupted_command.py read|sync N fit DIR -o MODEL ...

read: when it reads its N-th image, in a thread of its own. sync: when it waits for the N-th file to be on the disk, in the
main thread, with that file half-written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import fastspade.images.items
from fastspade.cli import main


def stopping(real: Callable[..., Any], left: int) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            print("here", flush=True)
            os.read(0, 1)
        return real(*arguments, **named)

    return call


if __name__ == "__main__":
    moment, number, *command = sys.argv[1:]
    if moment == "read":
        fastspade.images.items.read_file = stopping(fastspade.images.items.read_file, int(number))
    else:
        os.fsync = stopping(os.fsync, int(number))
    sys.exit(main(command))
