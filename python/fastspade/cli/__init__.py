"""The command line: fastspade fit | add | remove | score | export | eval | demo | info. A file per command, and shared parts."""

from fastspade.cli.main import main

__all__ = ["main"]
