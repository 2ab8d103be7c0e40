"""Which image files a path, a folder or a glob pattern names."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from fastspade.errors import ImageReadError, InputError, MissingFileError
from fastspade.images.safe_file import SUFFIXES


def find_files(label: str, path: str) -> list[Path]:
    """The image files that a path, folder or glob pattern names, sorted.

    Raises MissingFileError where there is none, ImageReadError where a named file is not of an image type, InputError.
    """
    if not path:
        raise InputError(f"{label} must name a file, folder or glob pattern, got an empty string")
    place = Path(path)
    if place.is_dir():
        found = _images_in(place)
        if not found:
            raise MissingFileError(f"{label}: no image files in folder {path} (looks for {' '.join(sorted(SUFFIXES))})")
        return found
    if place.exists():
        if not place.is_file():
            raise ImageReadError(f"{label}: {path} is neither a regular file nor a folder", path)
        if place.suffix and place.suffix.lower() not in SUFFIXES:
            raise ImageReadError(f"{label}: {path} is not of an image type ({' '.join(sorted(SUFFIXES))})", path)
        return [place]
    if not glob.has_magic(path):
        raise MissingFileError(f"{label}: no such file or folder: {path}")
    matches = [Path(match) for match in sorted(glob.glob(path, recursive=True))]
    found = [match for match in matches if match.is_file() and match.suffix.lower() in SUFFIXES]
    if not found:
        raise MissingFileError(f"{label}: no image files match {path}")
    return found


def _images_in(folder: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    # Pipes, sockets and devices are left out; a file that vanished or may not be read is not, so that it is reported.
    return sorted(
        path for path in found if path.suffix.lower() in SUFFIXES and (path.is_file() or not path.exists())
    )
