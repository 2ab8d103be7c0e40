"""Runs one command, and turns errors and signals into a line and an exit status."""

from __future__ import annotations

import importlib
import signal
import warnings
from collections.abc import Sequence

from fastspade.cli.parser import build_parser
from fastspade.cli.streams import usable_output
from fastspade.errors import FastspadeError, LeftOutWarning
from fastspade.files.progress import tell
from fastspade.files.signals import Terminated, sigterm_raises


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0; 2 after an error, told in one line; 130 after Ctrl-C and 143 after SIGTERM."""
    arguments = build_parser().parse_args(argv)
    try:
        with sigterm_raises(), warnings.catch_warnings(), usable_output():
            warnings.simplefilter("ignore", LeftOutWarning)  # every command tells what its images left out
            warnings.showwarning = _one_line  # type: ignore[assignment]  # it takes all that is given
            status: int = importlib.import_module(f"fastspade.cli.{arguments.command}").run(arguments)
        return status
    except BrokenPipeError:  # whoever read the output, `head` for one, has had enough
        return 128 + signal.SIGPIPE
    except (FastspadeError, OSError) as error:
        tell(f"fastspade: error: {_told(error)}")
        return 2
    except Terminated:
        tell("fastspade: terminated; nothing is half-written")
        return 143
    except KeyboardInterrupt:
        tell("fastspade: interrupted; nothing is half-written")
        return 130


def _told(error: OSError | FastspadeError) -> str:
    """An error in one line, which names the file and what the system says of it."""
    if isinstance(error, OSError) and not isinstance(error, FastspadeError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    return str(error)


def _one_line(message: Warning | str, *_: object) -> None:
    """A warning without the source code that it came from."""
    tell(f"fastspade: warning: {message}")
