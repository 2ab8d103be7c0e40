"""`fastspade demo`: the whole job on real photographs, offline."""

from __future__ import annotations

import argparse

from fastspade.demo import run_demo
from fastspade.files.home import user_path


def run(arguments: argparse.Namespace) -> int:
    run_demo(user_path(arguments.out), seed=arguments.seed, progress=not arguments.quiet)
    return 0
