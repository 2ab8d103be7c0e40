"""fastspade: exact, fast SPADE anomaly detection (Cohen and Hoshen, arXiv 2005.02357)."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from fastspade import _moved as _moved
from fastspade._lazy import lazy
from fastspade._version import __version__
from fastspade.errors import FastspadeError

if TYPE_CHECKING:
    from fastspade import distributed as distributed
    from fastspade import evaluate as evaluate
    from fastspade import maps as maps
    from fastspade import ray as ray
    from fastspade.bank import Bank
    from fastspade.info import build_info
    from fastspade.nn import SpadeModule
    from fastspade.nn.export import export
    from fastspade.search import knn, pyramid_knn
    from fastspade.spade import Result, Spade, score
else:  # to a type checker, a name that there is not is an error
    __getattr__ = lazy(
        "fastspade",
        dict.fromkeys(("distributed", "evaluate", "maps", "ray"), "")
        | {
            "Bank": "fastspade.bank",
            "Result": "fastspade.spade.result",
            "Spade": "fastspade.spade.spade",
            "SpadeModule": "fastspade.nn",
            "build_info": "fastspade.info",
            "export": "fastspade.nn",
            "knn": "fastspade.search",
            "pyramid_knn": "fastspade.search",
            "score": "fastspade.spade.spade",
        },
    )

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


def __dir__() -> list[str]:
    return sorted(__all__)


# torch.export.load finds operators by name: where torch is in use already, importing fastspade registers the search.
if "torch" in sys.modules:
    importlib.import_module("fastspade.search.ops")
