"""Pictures of a file beyond the one that is read, further pages or frames: who decodes tells of them, who wants to know listens."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from fastspade.errors import LeftOutError, LeftOutWarning

_listener: ContextVar[list[int] | None] = ContextVar("fastspade_further_pictures", default=None)


@contextmanager
def further_pictures() -> Iterator[list[int]]:
    """A list to which every file read in the body adds how many pictures it holds beyond the one that was read, if any."""
    found: list[int] = []
    token = _listener.set(found)
    try:
        yield found
    finally:
        _listener.reset(token)


def tell_further(count: int) -> None:
    found = _listener.get()
    if count > 0 and found is not None:
        found.append(count)


@dataclass
class Further:
    """How many pages or frames of files were not read, and what is said of the first of these files, where that is known."""

    pictures: int = 0
    example: str = ""

    @classmethod
    def of(cls, skipped: Iterable[tuple[str, Exception]]) -> Further:
        found = [error for _, error in skipped if isinstance(error, LeftOutError) and error.further]
        return cls(sum(error.further for error in found), str(found[0]) if found else "")

    def __add__(self, other: Further) -> Further:
        return Further(self.pictures + other.pictures, self.example or other.example)

    def __str__(self) -> str:
        example = f"; {self.example}" if self.example else ""
        return f"{self.pictures} further pages or frames are left out, only the first of each file is read{example}"

    def warn(self, argument: str) -> None:
        """Once a run, where there are any."""
        if self.pictures:
            warnings.warn(f"{argument}: {self}", LeftOutWarning, stacklevel=3)


def first_alone(name: str, further: int) -> tuple[str, LeftOutError]:
    """What `skipped` says of a file of which the first picture is read."""
    return name, LeftOutError(f"{name} holds {1 + further} pictures, of which the first is read", name, further)
