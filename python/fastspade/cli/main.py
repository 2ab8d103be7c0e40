"""Runs one command, and turns errors and signals into a line and an exit status."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from fastspade.cli.parser import build_parser
from fastspade.errors import FastspadeError
from fastspade.files.signals import Terminated, sigterm_raises


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0; 2 after an error, told in one line; 130 after Ctrl-C and 143 after SIGTERM."""
    arguments = build_parser().parse_args(argv)
    try:
        with sigterm_raises(), warnings.catch_warnings():
            warnings.showwarning = _one_line  # type: ignore[assignment]  # it takes all that is given
            status: int = importlib.import_module(f"fastspade.cli.{arguments.command}").run(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output, `head` for one, has had enough
        _discard(sys.stdout)
        return 128 + signal.SIGPIPE
    except (FastspadeError, OSError) as error:
        print(f"fastspade: error: {_told(error)}", file=sys.stderr)
        return 2
    except Terminated:
        print("fastspade: terminated; nothing is half-written", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("fastspade: interrupted; nothing is half-written", file=sys.stderr)
        return 130


def _told(error: OSError | FastspadeError) -> str:
    """An error in one line, which names the file and what the system says of it."""
    if isinstance(error, OSError) and not isinstance(error, FastspadeError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    return str(error)


def _discard(stream: TextIO | None) -> None:
    """What is left in the stream's buffer goes nowhere, so that Python does not complain of it when it ends."""
    try:
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass


def _one_line(message: Warning | str, *_: object) -> None:
    """A warning without the source code that it came from."""
    print(f"fastspade: warning: {message}", file=sys.stderr)
