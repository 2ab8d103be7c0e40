"""Which image files a path, a folder or a glob pattern names, and what lay there beside them."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastspade.errors import FastspadeError, ImageReadError, InputError, LeftOutError, MissingFileError
from fastspade.files.home import user_path
from fastspade.images.safe_file import SUFFIXES


@dataclass
class Found:
    """files: image files, sorted. left_out: (name, LeftOutError) of everything else that was met. bad: (name, error) of folders
    that cannot be listed."""

    files: list[Path] = field(default_factory=list)
    left_out: list[tuple[str, FastspadeError]] = field(default_factory=list)
    bad: list[tuple[str, FastspadeError]] = field(default_factory=list)

    def leave_out(self, path: str | os.PathLike[str], why: str) -> None:
        name = os.fspath(path)
        self.left_out.append((name, LeftOutError(f"{name} {why}", name)))


def find_files(label: str, path: str) -> list[Path]:
    """As `find`, the image files alone. Raises as it does, and for a folder that cannot be listed."""
    found = find(label, path)
    for _, error in found.bad:
        raise error
    return found.files


def find(label: str, path: str, suffixes: Collection[str] = SUFFIXES) -> Found:
    """The image files that a path, folder (in depth, links followed) or glob pattern names. A leading ~ is the home folder.

    Raises MissingFileError where there is none, ImageReadError where a named file is not of an image type, InputError.
    """
    if not path:
        raise InputError(f"{label} must name a file, folder or glob pattern, got an empty string")
    place, given = user_path(path), path
    path = str(place)
    if place.is_dir():
        found = in_folder(place, suffixes)
        if not found.files and not found.bad:
            raise MissingFileError(f"{label}: no image files in folder {path} (looks for {' '.join(sorted(suffixes))})")
        return found
    if place.exists():
        if not place.is_file():
            raise ImageReadError(f"{label}: {path} is neither a regular file nor a folder", path)
        if place.suffix and place.suffix.lower() not in suffixes:
            raise ImageReadError(f"{label}: {path} is not of an image type ({' '.join(sorted(suffixes))})", path)
        return Found([place])
    if not glob.has_magic(path):
        url = "" if "://" not in given else "; URLs are not read, only files of this machine"
        raise MissingFileError(f"{label}: no such file or folder: {given}{url}")
    found = _matches(path, suffixes)
    if not found.files and not found.bad:
        raise MissingFileError(
            f"{label}: no image files match {path}; "
            + (f"of what matches, {found.left_out[0][1]}" if found.left_out else
               "* ? and [ ] are read as a pattern, of a name that has them use glob.escape(name)")
        )  # fmt: skip
    return found


def in_folder(folder: Path, suffixes: Collection[str] = SUFFIXES, *, deep: bool = True) -> Found:
    """The image files of a folder and, where `deep`, of the folders in it, linked ones included; hidden ones are left out."""
    found = Found()
    for parent, folders, names in walk(folder, found) if deep else _listing(folder, found):
        for name in folders if deep else ():
            if name.startswith("."):
                found.leave_out(Path(parent, name), "is hidden")
        for name in names:
            _sort_out(Path(parent, name), suffixes, found)
    found.files.sort()
    found.left_out.sort(key=lambda one: one[0])
    return found


def walk(top: str | os.PathLike[str], found: Found) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, but links are followed and every folder is visited once, so that a circle of links ends; under its own name
    where it lies in `top`, else under that of a link, of one that leads upwards last. Hidden folders are listed, not visited."""
    seen: set[str] = set()
    tops = [os.fspath(top)]
    while tops:
        links: list[str] = []
        for start in sorted(tops, key=lambda link: (Path(os.path.realpath(top)).is_relative_to(os.path.realpath(link)), link)):
            if os.path.realpath(start) in seen:
                found.leave_out(start, "is a link to a folder that is read already")
                continue
            for parent, folders, names in os.walk(start, onerror=lambda error: _cannot_list(error, found)):
                real = os.path.realpath(parent)
                if real in seen:
                    folders.clear()
                    continue
                seen.add(real)
                yield parent, list(folders), names
                visible = [os.path.join(parent, name) for name in folders if not name.startswith(".")]
                links += [one for one in visible if os.path.islink(one)]
                folders[:] = [name for name in folders if not name.startswith(".")]
        tops = links


def _listing(folder: Path, found: Found) -> Iterator[tuple[str, list[str], list[str]]]:
    """The folder itself, as os.walk has it."""
    yield next(os.walk(folder, onerror=lambda error: _cannot_list(error, found)), (os.fspath(folder), [], []))


def _cannot_list(error: OSError, found: Found) -> None:
    name = os.fspath(error.filename)
    found.bad.append((name, ImageReadError(f"cannot list folder {name}: {error.strerror}", name)))


def _sort_out(path: Path, suffixes: Collection[str], found: Found) -> None:
    """An image file, or something to be left out. A file that vanished or may not be read is one, so that it is reported."""
    if path.name.startswith("."):
        found.leave_out(path, "is hidden")
    elif path.suffix.lower() not in suffixes:
        found.leave_out(path, "is not of an image type")
    elif path.exists() and not path.is_file():
        found.leave_out(path, "is not a regular file")
    else:
        found.files.append(path)


def _matches(pattern: str, suffixes: Collection[str]) -> Found:
    found = Found()
    matches = sorted({Path(match) for match in _expansion(pattern, found)})
    folders = [match for match in matches if match.is_dir()]
    others = sorted(set(matches) - set(folders))
    seen = set()
    for match in others:
        itself = (os.path.realpath(match.parent), match.name)
        if itself in seen:
            found.leave_out(match, "is reached by a link and read already")
        else:
            _sort_out(match, suffixes, found)
        seen.add(itself)
    searched = {parent for match in others for parent in match.parents}
    for match in folders:
        if match not in searched:
            found.leave_out(match, "is a folder, which the pattern does not search; end it in /**")
    return found


def _expansion(pattern: str, found: Found) -> Iterator[str]:
    """As glob.glob(pattern, recursive=True), but through `walk`, and a name that is there as it is written is no pattern."""
    head, parts = "", Path(pattern).parts
    for i, part in enumerate(parts):
        if part == "**":
            rest = os.path.join(*parts[i + 1 :]) if parts[i + 1 :] else "*"
            for top in filter(os.path.isdir, glob.glob(head) if head else [os.curdir]):
                for parent, _, _ in walk(top, found):
                    place = parent if head else os.path.relpath(parent)
                    yield from _expansion(rest if place == os.curdir else os.path.join(glob.escape(place), rest), found)
            return
        literal = os.path.join(head, glob.escape(part))
        head = literal if glob.has_magic(part) and glob.glob(literal) else os.path.join(head, part)
    yield from glob.glob(head)
