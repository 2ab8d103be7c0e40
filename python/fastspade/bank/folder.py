"""A folder that holds a bank: who may write it, how it changes from one state to the next, and what is litter.

    manifest.json            the state; exchanged by renaming, after all that it names is on the disk
    shard-*.safetensors      never changed; deleted when no manifest names them
    lock                     held (flock) by the writer; the file stays, and its presence alone means nothing

A writer that is killed leaves the old state and files that no manifest names; the next writer deletes these. Readers take no
lock: they see one state or the next, and a shard that they have open stays readable when it is deleted. This supposes a local
file system: flock that holds for everybody who writes, renaming that replaces, open files that outlive their names.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastspade.bank.lock import held
from fastspade.bank.manifest import NAME, SHARD_NAME, Manifest, read_manifest, write_manifest
from fastspade.bank.shard import Shard
from fastspade.errors import InputError, MissingFileError, ModelFileError
from fastspade.files.atomic import storage_error, sync
from fastspade.files.home import user_path

LOCK = "lock"
_ASIDE = re.compile(re.escape(f".{NAME}.") + r".*\.part")
ATTEMPTS = 20  # at opening shards that a writer keeps replacing


class BankFolder:
    """The folder at `path`."""

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path).absolute()  # it is read and written later, when the program may have changed its folder

    def read(self, known: tuple[Manifest, tuple[Shard, ...]] | None = None) -> tuple[Manifest, tuple[Shard, ...]]:
        """The state on disk: the manifest, and its shards open and verified; those of `known` are not opened again.

        Raises MissingFileError where there is no bank, ModelFileError saying what is wrong with it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise MissingFileError(f"path: {self.path} is not a folder")
        for _ in range(ATTEMPTS):
            try:
                manifest = read_manifest(self.path)
            except FileNotFoundError:
                raise MissingFileError(f"path: no fastspade bank in {self.path}") from None
            have = {shard.path.name: shard for shard in known[1]} if known else {}
            try:
                return manifest, tuple(
                    have.get(record.file) or Shard(self.path, record, manifest.layout) for record in manifest.shards
                )
            except FileNotFoundError as error:  # replaced by a writer since the manifest was read, or lost
                missing = error.filename
        raise self.unusable(f"{missing} is missing")

    def unusable(self, why: str) -> ModelFileError:
        return ModelFileError(f"path: {self.path} is not a usable fastspade bank: {why}")

    @contextmanager
    def locked(self, create: bool = False) -> Iterator[None]:
        """Holds the folder for writing; afterwards, also after failures, what no manifest names is gone.

        create: make the folder where it is not there; it goes again if nothing was written.

        Raises BankLockedError where there is another writer, InputError where the folder holds files that are not a bank's,
        StorageError where it cannot be written.
        """
        if create and self.path.is_dir():
            self._check_ours()  # before there is a lock, so that a folder that is refused stays as it was
        made = create and self._make()
        with held(self.path / LOCK, self.path, create=True):
            try:
                if create:
                    self._check_ours()
                self._clean(create)
                if made:
                    self._sync(self.path.absolute().parent)
                yield
            finally:
                self._clean(create)
                if made and not (self.path / NAME).exists():
                    with contextlib.suppress(OSError):
                        (self.path / LOCK).unlink()
                        self.path.rmdir()

    def commit(self, manifest: Manifest) -> None:
        """Exchange the state. Its shards must be written; the folder must be held."""
        self._sync(self.path)  # the shards' names, before the manifest that names them
        write_manifest(self.path, manifest)

    def _sync(self, folder: Path) -> None:
        try:
            sync(folder)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def _make(self) -> bool:
        if self.path.is_dir():
            return False
        if not self.path.absolute().parent.is_dir():
            raise MissingFileError(f"path: the folder {self.path.absolute().parent} does not exist; create it first")
        try:
            self.path.mkdir()
        except FileExistsError:
            raise InputError(f"path: {self.path} exists and is not a folder") from None
        except OSError as error:
            raise storage_error(self.path, error) from error
        return True

    def _check_ours(self) -> None:
        if (self.path / NAME).exists():
            return
        for entry in os.listdir(self.path):
            if entry != LOCK and not self._may_delete(entry):
                raise InputError(f"path: {self.path} holds {entry}, so it is not a fastspade bank; name a new folder")

    def _clean(self, create: bool) -> None:
        """Delete what an interrupted writer left. Where the manifest cannot be read, or is lost, nothing is touched; a bank
        that is created has none yet."""
        try:
            named = {shard.file for shard in read_manifest(self.path).shards}
        except FileNotFoundError:
            if not create:
                return
            named = set()
        except (ModelFileError, OSError):
            return
        with contextlib.suppress(OSError):
            litter = [entry for entry in os.listdir(self.path) if entry not in named and self._may_delete(entry)]
            if litter:
                sync(self.path)  # a manifest that a killed writer exchanged, before what only the last one named goes
            for entry in litter:
                (self.path / entry).unlink(missing_ok=True)

    @staticmethod
    def _may_delete(entry: str) -> bool:
        return bool(SHARD_NAME.fullmatch(entry) or _ASIDE.fullmatch(entry))
