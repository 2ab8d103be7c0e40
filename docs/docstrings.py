"""For the API reference: "name: what it is" lines of docstrings become list items.

Docstrings are written to be read in a terminal, one argument a line or a sentence. Markdown would run them together.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# "name: ", "name, other: " or "first to last: " where a paragraph or a sentence begins; X is scikit-learn's.
_ARGUMENT = re.compile(r"(?:^|(?<=\. ))(X|[a-z_][a-z0-9_]*(?:(?:, | to )[a-z_][a-z0-9_]*)*): (?=\S)")


def as_markdown(text: str) -> str:
    """A docstring with its arguments as lists, a list a paragraph; everything else as it is."""
    return "\n\n".join(_paragraph(paragraph) for paragraph in re.split(r"\n\s*\n", text.strip("\n")))


def _paragraph(text: str) -> str:
    """One paragraph; a line that starts an argument starts an item, and so does a sentence that does."""
    if not any(_ARGUMENT.match(line) for line in text.splitlines()) and not _ARGUMENT.search(" ".join(text.split())):
        return text
    items: list[str] = []
    for line in text.splitlines():  # a line at the margin that starts no argument goes on with the one before
        if _ARGUMENT.match(line) or not items:
            items.append(line.strip())
        else:
            items[-1] += " " + line.strip()
    lines: list[str] = []
    for item in items:
        before, *rest = _ARGUMENT.split(item)
        if before.strip():
            lines += [before.strip(), ""]
        for names, what in zip(rest[::2], rest[1::2], strict=True):
            shown = re.sub(r"(\w+)(, | to |$)", r"`\1`\2", names)
            lines.append(f"- {shown}: {what.strip()}")
    return "\n".join(lines)


class ArgumentsAsList(griffe.Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
