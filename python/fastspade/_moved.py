"""Modules that were elsewhere in earlier versions: importing one by its old name still works, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "api": "spade.spade",
    "decode": "images.decode",
    "features": "backbones.extractor",
    "geometry": "images.geometry",
    "image_file": "images.safe_file",
    "image_paths": "images.paths",
    "map_files": "maps.files",
    "matching": "spade.matching",
    "model_file": "bank.model_file",
    "module": "nn",
    "options": "spade.options",
    "result": "spade.result",
    "score_files": "cli.score_files",
    "threshold": "spade.threshold",
}


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        return ModuleSpec(name, self) if package == "fastspade" and old in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        new = f"fastspade.{MOVED[module.__name__.partition('.')[2]]}"
        warnings.warn(f"{module.__name__} is {new} now", DeprecationWarning, stacklevel=2)
        home = importlib.import_module(new)
        module.__dict__.update({name: value for name, value in vars(home).items() if not name.startswith("__")})


sys.meta_path.append(_Finder())
