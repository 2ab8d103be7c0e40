"""fastspade: exact, fast SPADE anomaly detection (Cohen and Hoshen, arXiv 2005.02357)."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from fastspade._version import __version__
from fastspade.errors import FastspadeError

if TYPE_CHECKING:
    from fastspade import distributed as distributed
    from fastspade import evaluate as evaluate
    from fastspade import ray as ray
    from fastspade.api import score
    from fastspade.bank import Bank
    from fastspade.info import build_info
    from fastspade.module import SpadeModule
    from fastspade.module.export import export
    from fastspade.search import knn, pyramid_knn
    from fastspade.spade import Result, Spade

__all__ = [
    "Bank",
    "FastspadeError",
    "Result",
    "Spade",
    "SpadeModule",
    "__version__",
    "build_info",
    "export",
    "knn",
    "pyramid_knn",
    "score",
]

# Where each public name lives. Resolved on first use, so that `import fastspade` (and `--help`) does not wait for torch.
_HOMES = {
    "Bank": "fastspade.bank",
    "Result": "fastspade.spade",
    "Spade": "fastspade.spade",
    "SpadeModule": "fastspade.module",
    "build_info": "fastspade.info",
    "export": "fastspade.module",
    "knn": "fastspade.search",
    "pyramid_knn": "fastspade.search",
    "score": "fastspade.api",
}


if not TYPE_CHECKING:  # to a type checker, a name that there is not is an error

    def __getattr__(name: str) -> object:
        if name in ("evaluate", "ray", "distributed"):  # packages of their own: fastspade.evaluate.roc_auc(labels, scores)
            return importlib.import_module(f"fastspade.{name}")
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'fastspade' has no attribute {name!r}")
        value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


# torch.export.load finds operators by name: where torch is in use already, importing fastspade registers the search.
if "torch" in sys.modules:
    importlib.import_module("fastspade.search.ops")
