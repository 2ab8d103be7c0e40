"""SIGTERM as an orderly end: while a command runs, it ends as Ctrl-C ends it, so that nothing half-written stays behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was told to end (SIGTERM). Whatever makes way for Ctrl-C makes way for this."""


class _Handler:
    """Raises once: the second SIGTERM, which `timeout` for one sends, must not end the tidying that the first began."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._told:
            self._told = True
            raise Terminated


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises Terminated until this is left.

    Where the caller has seen to SIGTERM (ignored, or with a handler of its own) it stays as it is, and so it does outside
    the main thread, where Python takes no signals.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGTERM, _Handler())
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def keeps_handler() -> Iterator[None]:
    """For calls into a library that has a handler of its own for SIGTERM: that of `sigterm_raises` is there again afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if isinstance(before, _Handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
