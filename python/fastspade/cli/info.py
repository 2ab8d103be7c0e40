"""`fastspade info`: what this build is and what it will use."""

from __future__ import annotations

import argparse
import json

from fastspade.info import build_info, cuda_devices


def run(arguments: argparse.Namespace) -> int:
    print(json.dumps({**build_info(), "cuda_devices": cuda_devices()}, indent=2))
    return 0
