"""SPADE itself: options, both stages, image scores, thresholds and results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastspade._lazy import lazy

if TYPE_CHECKING:
    from fastspade.spade.options import IMAGE_SCORES, Options
    from fastspade.spade.result import Result, ScoredImage
    from fastspade.spade.spade import Spade, score
else:
    __getattr__ = lazy(
        "fastspade.spade",
        dict.fromkeys(("IMAGE_SCORES", "Options"), "fastspade.spade.options")
        | dict.fromkeys(("Result", "ScoredImage"), "fastspade.spade.result")
        | dict.fromkeys(("Spade", "score"), "fastspade.spade.spade"),
    )

__all__ = ["IMAGE_SCORES", "Options", "Result", "ScoredImage", "Spade", "score"]
