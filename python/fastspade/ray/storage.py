"""Folders and files on any file system that pyarrow knows: listing, reading, and writing that is whole or not at all."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from fastspade.errors import InputError, MissingFileError
from fastspade.files.atomic import replacing

# An object of these appears under its name when the upload is complete, so it needs no rename (which would be a copy).
_OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})


FileSystem: TypeAlias = Any  # pyarrow.fs.FileSystem, or fsspec's, which need not be installed


@dataclass(frozen=True)
class Place:
    """A path on a pyarrow file system. scheme: how its files are named, e.g. "s3"; "" for paths of this machine."""

    filesystem: pafs.FileSystem
    path: str
    scheme: str = ""

    @property
    def is_local(self) -> bool:
        return bool(self.filesystem.type_name == "local")

    @property
    def name(self) -> str:
        """What results call it: the path, with the scheme where there is one, never with credentials."""
        return f"{self.scheme}://{self.path}" if self.scheme else self.path

    def at(self, path: str) -> Place:
        """Another path of the same file system."""
        return replace(self, path=path)

    def join(self, child: str) -> Place:
        return self.at(f"{self.path.rstrip('/')}/{child}")

    def info(self) -> pafs.FileInfo:
        return self.filesystem.get_file_info(self.path)

    def exists(self) -> bool:
        return bool(self.info().type != pafs.FileType.NotFound)

    def files(self, *, recursive: bool, hidden: set[str] | None = None) -> list[pafs.FileInfo]:
        """The files under this folder, sorted by path, those in hidden folders or with hidden names left out; the paths of these
        folders and files are put into `hidden`."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        start = len(self.path.rstrip("/")) + 1
        found = []
        for one in self.filesystem.get_file_info(selector):
            if one.type == pafs.FileType.File and (at := f"/{one.path[start:]}".find("/.")) < 0:
                found.append(one)
            elif one.type == pafs.FileType.File and hidden is not None:
                hidden.add(one.path[: start + at] + one.path[start + at :].split("/")[0])
        return sorted(found, key=lambda one: Path(one.path))  # by parts, as a local folder is listed

    def read(self) -> bytes:
        """The whole file. Raises MissingFileError where there is none, OSError where it cannot be read."""
        try:
            with self.filesystem.open_input_stream(self.path, compression=None) as file:
                data: bytes = file.read()
                return data
        except FileNotFoundError as error:
            raise MissingFileError(f"no such file: {self.name}") from error

    def remove_unfinished(self) -> None:
        """Delete what writers that were killed left in this folder; only when none is at work."""
        for info in self.filesystem.get_file_info(pafs.FileSelector(self.path)):
            if info.base_name.startswith(".") and info.base_name.endswith(".part"):
                self.filesystem.delete_file(info.path)

    def make_folder(self) -> None:
        self.filesystem.create_dir(self.path, recursive=True)

    def write(self, data: bytes) -> None:
        """Afterwards the file holds all of `data`, or what it held before; a second writer of the same bytes does no harm."""
        if self.is_local:
            with replacing(Path(self.path)) as aside:
                aside.write_bytes(data)
            return
        direct = self.filesystem.type_name in _OBJECT_STORES
        folder, _, file_name = self.path.rpartition("/")
        path = self.path if direct else f"{folder}/.{file_name}.{uuid.uuid4().hex}.part"
        with self.filesystem.open_output_stream(path) as file:
            file.write(data)
        if not direct:
            self.filesystem.move(path, self.path)


def locate(where: str | os.PathLike[str], argument: str, filesystem: FileSystem | None = None) -> Place:
    """A path or URI ("s3://bucket/folder", "file:///data", ...) -> Place. With `filesystem`, `where` is a path on it."""
    text = os.fspath(where)
    if not isinstance(text, str) or not text:
        raise InputError(f"{argument} must be a path or URI, got {where!r}")
    if isinstance(filesystem, pafs.FileSystem):
        return Place(filesystem, text.rstrip("/"), "" if filesystem.type_name == "local" else filesystem.type_name)
    if filesystem is not None:
        protocol = getattr(filesystem, "protocol", None)  # one name or several
        if not protocol:
            raise InputError(f"filesystem must be one of pyarrow or fsspec, got {type(filesystem).__name__}")
        scheme = protocol if isinstance(protocol, str) else protocol[0]
        return Place(pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), text.rstrip("/"), scheme)
    if "://" not in text:
        return Place(pafs.LocalFileSystem(), text.rstrip("/") or "/")
    try:
        found, path = pafs.FileSystem.from_uri(text)
    except (ValueError, OSError, NotImplementedError) as error:
        raise InputError(
            f"{argument} must be a path or a URI that pyarrow can open, got {_bare(text)}: "
            + str(error).replace(text, _bare(text))
        ) from None
    return Place(found, path.rstrip("/"), "" if found.type_name == "local" else urlsplit(text).scheme)


def _bare(uri: str) -> str:
    """The URI without user, password and query, which may be secrets."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
