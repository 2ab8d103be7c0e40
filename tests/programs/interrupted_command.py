"""A fastspade command that stops at a moment of its work and says so, until its standard input ends: a test can interrupt it there.
begin() runs it in a process of its own, forked from one that has imported this module, and torch with it.

read: when it reads its N-th image, in a thread of its own. sync: when it waits for the N-th file to be on the disk, in the
main thread, with that file half-written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.thread import _WorkItem
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import fastspade.images.items
from fastspade.cli import main


def awaited_by_the_main_thread() -> bool:
    """Does the main thread wait for what this thread of a pool does? Ctrl-C then cannot come while it runs others' code."""
    frame = sys._getframe()
    while frame.f_code is not _WorkItem.run.__code__:
        assert frame.f_back is not None, "not in a thread of a pool"
        frame = frame.f_back
    waits = sys._current_frames()[threading.main_thread().ident]
    result = waits.f_back
    return (
        waits.f_code is threading.Condition.wait.__code__
        and result is not None
        and result.f_code is Future.result.__code__
        and result.f_locals["self"] is frame.f_locals["self"].future
    )


def stopping(real: Callable[..., Any], left: int) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            while threading.current_thread() is not threading.main_thread() and not awaited_by_the_main_thread():
                time.sleep(0.01)
            print("here", flush=True)
            os.read(0, 1)
        return real(*arguments, **named)

    return call


def begin(streams: tuple[Connection, ...], ignored: bool, moment: str, number: str, *command: str) -> NoReturn:
    """streams: standard input, output and error. ignored: whether what starts the command had SIGTERM ignored."""
    for place, stream in enumerate(streams):
        os.dup2(stream.fileno(), place)
    if ignored:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if moment == "read":
        fastspade.images.items.read_file = stopping(fastspade.images.items.read_file, int(number))
    else:
        os.fsync = stopping(os.fsync, int(number))
    sys.exit(main(list(command)))
