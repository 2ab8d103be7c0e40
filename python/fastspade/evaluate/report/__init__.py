"""report.html: one self-contained page of a whole evaluation, readable without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fastspade.errors import InputError, MissingDependencyError
from fastspade.evaluate import tables
from fastspade.evaluate.category import Category
from fastspade.evaluate.report.payload import category_payload, metrics_payload
from fastspade.evaluate.runner import IMAGE_METRICS, PIXEL_METRICS, CategoryResult, ScoredTest
from fastspade.maps import color_table
from fastspade.spade import Spade

# In the order they run; each is one concern of the page.
SCRIPTS = ("data.js", "paint.js", "charts.js", "summary.js", "gallery.js", "detail.js", "main.js")


class Report:
    """Collects categories while they are evaluated, so that maps and pictures need not be kept; then makes the page.

    Raises MissingDependencyError at once where plotly, which draws the curves, is not installed.
    """

    def __init__(self, images: int | None = None) -> None:
        """images: at most so many test images per category, evenly spread over the order of scores; None: all."""
        if images is not None and images < 1:
            raise InputError(f"report-images must be at least 1, got {images}")
        self._images = images
        self._plotly = _plotly_script()
        self._categories: list[dict[str, Any]] = []

    def add(self, category: Category, result: CategoryResult, tests: Sequence[ScoredTest], model: Spade, root: Path) -> None:
        """Take a category just evaluated; `model` is the one fitted for it."""
        shown = list(tests)
        if self._images is not None and len(shown) > self._images:
            shown.sort(key=lambda one: one.scored.score)
            shown = [shown[i] for i in np.linspace(0, len(shown) - 1, self._images).round().astype(int)]
        self._categories.append(category_payload(category, result, shown, model, root))

    def html(self, results: Sequence[CategoryResult], about: dict[str, Any]) -> str:
        """The page. results, about: as for tables.as_json."""
        means = tables.summary(results)
        data = {
            "about": about,
            "names": tables.SHORT,
            "imageMetrics": IMAGE_METRICS,
            "pixelMetrics": PIXEL_METRICS,
            "mean": {group: metrics_payload(values) for group, values in means.items()},
            "colors": color_table().tolist(),
            "categories": self._categories,
        }
        # "<" cannot end the element it stands in, whatever file names hold.
        text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        parts = {
            "style": _page("style.css"),
            "plotly": self._plotly,
            "data": text,
            "script": "\n".join(_page(name) for name in SCRIPTS),
        }
        return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _page("page.html"))


def _page(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text(encoding="utf-8")


def _plotly_script() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingDependencyError(
            'report.html needs plotly; install the extra: pip install "fastspade[eval]" (or run with --no-report)'
        ) from error
    script: str = get_plotlyjs()
    return script.replace("</script", "<\\/script")
