"""What a dataset is made of: categories of training images and labelled test images; and what can be wrong with one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastspade.errors import FastspadeError, InputError


@dataclass(frozen=True)
class TestImage:
    """path; kind: "good" or the name of the defect; mask: file of the ground truth, None where there is none."""

    __test__ = False  # not a test case, whatever pytest makes of its name

    path: Path
    kind: str
    mask: Path | None = None

    @property
    def defect(self) -> bool:
        return self.kind != "good"


@dataclass(frozen=True)
class Category:
    """train: normal images. test: labelled images. skipped: (name, error) of what skip_bad left out, and of files
    of several pictures, of which the first is read (LeftOutError). has_masks: every defect has
    a mask, so pixel metrics are defined."""

    name: str
    train: tuple[Path, ...]
    test: tuple[TestImage, ...]
    skipped: tuple[tuple[str, FastspadeError], ...] = ()

    @property
    def has_masks(self) -> bool:
        return all(image.mask is not None for image in self.test if image.defect)


class Problems:
    """Collects what is wrong with a dataset, so that one run tells all of it."""

    def __init__(self, heading: str, shown: int = 10) -> None:
        self._heading, self._shown = heading, shown
        self._found: list[str] = []

    def add(self, problem: str) -> None:
        self._found.append(problem)

    def stop(self) -> None:
        """Raises InputError if anything was added."""
        if self._found:
            more = f"; and {len(self._found) - self._shown} more" if len(self._found) > self._shown else ""
            raise InputError(f"{self._heading}: {'; '.join(self._found[: self._shown])}{more}")


def choose(known: Sequence[str], wanted: Sequence[str], problems: Problems) -> list[str]:
    """The wanted names, in the dataset's order; names it does not have are problems. None wanted: all."""
    for name in wanted:
        if name not in known:
            problems.add(f"no category {name!r} (it has {', '.join(known) or 'none'})")
    return [name for name in known if not wanted or name in wanted]
