"""The errors a caller can catch: one base class, each also the built-in error its kind is."""

from __future__ import annotations

__all__ = [
    "BankLockedError",
    "DeviceError",
    "DtypeError",
    "EngineError",
    "FastspadeError",
    "ImageReadError",
    "InputError",
    "LeftOutError",
    "LeftOutWarning",
    "MissingDependencyError",
    "MissingFileError",
    "ModelFileError",
    "RankError",
    "StorageError",
]


class FastspadeError(Exception):
    """Base of every error that fastspade raises on purpose."""


class InputError(FastspadeError, ValueError):
    """An argument has a value, shape or range that cannot be used."""


class DtypeError(FastspadeError, TypeError):
    """An argument has the wrong type or element type."""


class DeviceError(FastspadeError, RuntimeError):
    """Tensors sit on different devices, or on one this build cannot serve."""


class MissingFileError(FastspadeError, FileNotFoundError):
    """A path that was named does not exist, or holds nothing to read."""


class ImageReadError(FastspadeError, ValueError):
    """A file was found but is not a readable image; ``path`` names it."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class LeftOutError(ImageReadError):
    """Something that lay among images and is not read as one. It is never raised: it says in ``skipped`` what was left out.

    further: of a file that is read, how many pages or frames beyond its first picture are not; 0 for what is not read at all.
    """

    def __init__(self, message: str, path: str | None = None, further: int = 0) -> None:
        super().__init__(message, path)
        self.further = further


class LeftOutWarning(UserWarning):
    """Files hold further pages or frames, which are not read."""


class ModelFileError(FastspadeError, ValueError):
    """A saved model is truncated, altered, of another version, or does not match its backbone."""


class StorageError(FastspadeError, OSError):
    """A file cannot be written: the disk is full, or the place may not be written. What was there is unchanged."""


class BankLockedError(FastspadeError, OSError):
    """A bank is being written by another process, or by another object of this one."""


class MissingDependencyError(FastspadeError, ImportError):
    """An optional package is needed for what was asked; the message names the extra."""


class EngineError(FastspadeError, RuntimeError):
    """The compiled engine is missing or reported a failure."""


class RankError(FastspadeError, RuntimeError):
    """Another process of a distributed run failed, died, or did not answer in time."""
