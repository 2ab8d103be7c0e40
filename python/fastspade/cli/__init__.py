"""The command line: fastspade fit | add | remove | score | export | eval | demo | info. One file per command, and what they share."""

from fastspade.cli.main import main

__all__ = ["main"]
