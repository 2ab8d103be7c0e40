"""`fastspade demo`: the whole job on real photographs, offline."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastspade.demo import run_demo


def run(arguments: argparse.Namespace) -> int:
    run_demo(Path(arguments.out), seed=arguments.seed, progress=not arguments.quiet)
    return 0
