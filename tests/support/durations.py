"""Seconds per test file, kept in benchmarks/results/test_durations.json by `pytest --write-durations`."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import defaultdict
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "test_durations.json"
_seconds: defaultdict[str, float] = defaultdict(float)


def add(location: str, seconds: float) -> None:
    _seconds[location] += seconds


def write() -> None:
    """Files that ran take the place of their former figures."""
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["files"] if RESULTS.exists() else {}
    files = known | {file: round(seconds, 1) for file, seconds in _seconds.items()}
    record = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "command": " ".join(["pytest", *sys.argv[1:]]),
        "seconds": round(sum(files.values()), 1),
        "files": dict(sorted(files.items(), key=lambda one: -one[1])),
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
