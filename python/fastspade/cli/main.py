"""Runs one command, and turns errors and signals into a line and an exit status."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from fastspade.cli.parser import build_parser
from fastspade.errors import FastspadeError
from fastspade.files.signals import Terminated, sigterm_raises


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0; 2 after an error, told in one line; 130 after Ctrl-C and 143 after SIGTERM."""
    arguments = build_parser().parse_args(argv)
    try:
        with sigterm_raises():
            status: int = importlib.import_module(f"fastspade.cli.{arguments.command}").run(arguments)
        return status
    except (FastspadeError, OSError) as error:
        print(f"fastspade: error: {error}", file=sys.stderr)
        return 2
    except Terminated:
        print("fastspade: terminated; nothing is half-written", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("fastspade: interrupted; nothing is half-written", file=sys.stderr)
        return 130
