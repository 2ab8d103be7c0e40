"""Scoring on a Ray cluster: fastspade.ray.score (needs the extra "ray")."""

from __future__ import annotations

from fastspade.errors import MissingDependencyError

try:
    import ray.data  # noqa: F401
except ImportError as error:
    raise MissingDependencyError(
        f"fastspade.ray needs Ray Data ({error}); install the extra 'ray': pip install \"fastspade[ray]\""
    ) from error

from fastspade.ray.output import decode_map
from fastspade.ray.run import RunSummary, score

__all__ = ["RunSummary", "decode_map", "score"]
