"""A limit on the memory that a process may still allocate, for programs that tests run."""

from __future__ import annotations

import resource
from pathlib import Path


def at_most(more: int) -> None:
    """From now on this process may take so many bytes of address space beyond what it has: an allocation beyond fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
