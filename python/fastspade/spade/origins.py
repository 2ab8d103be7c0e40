"""Where the bank's entries came from, for a bank of tiles or of turned copies: which may be compared with which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from fastspade.errors import InputError
from fastspade.images.views import ViewName

Nearest = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


class Origins:
    """Of N entries, by their names.

    picture: (N,) int64, the entries of one picture have one number. plain: (N,) bool, not turned. aligned: whether a tile is
    compared with those of its own place alone.
    """

    def __init__(self, names: Sequence[str], aligned: bool) -> None:
        views = [ViewName.parse(name) for name in names]
        self.picture = _numbered([view.picture for view in views])
        self.plain = torch.tensor([view.turn is None for view in views])
        self._places = {view.tile for view in views} if aligned else {None}
        place = [view.tile if aligned else None for view in views]
        self._rows = {known: torch.tensor([i for i, one in enumerate(place) if one == known]) for known in self._places}
        self._of_picture = {
            known: int(torch.bincount(self.picture[rows]).max()) for known, rows in self._rows.items()
        }  # most entries of one picture at a place

    def usable(self, leave_out: bool) -> int:
        """The number of entries that every query can be compared with; leave_out: without those of its own picture."""
        return min(len(rows) - leave_out * self._of_picture[place] for place, rows in self._rows.items())

    def nearest(
        self,
        queries: torch.Tensor,
        embeddings: torch.Tensor,
        k: int,
        names: Sequence[str],
        left_out: torch.Tensor | None,
        search: Nearest,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 1 for queries (B, E) called `names`: squared distances and entries, (B, k) each.

        left_out: (B,) entries whose pictures the queries may not be compared with. search: `knn`.
        """
        places = [ViewName.parse(name).tile if None not in self._places else None for name in names]
        distances = queries.new_empty(len(queries), k)
        entries = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
        for place in dict.fromkeys(places):
            if place not in self._rows:
                raise InputError(f"aligned tiles need images of one size: the normal images have no tile {place}")
            rows = self._rows[place].to(queries.device)
            mine = torch.tensor([i for i, one in enumerate(places) if one == place], device=queries.device)
            more = 0 if left_out is None else self._of_picture[place]
            found, index = search(
                queries[mine], embeddings if len(rows) == len(embeddings) else embeddings[rows], min(k + more, len(rows))
            )
            index = rows[index]
            if left_out is not None:
                picture = self.picture.to(queries.device)
                own = picture[index] == picture[left_out.to(queries.device)[mine]][:, None]
                kept = own.long().argsort(dim=1, stable=True)[:, :k]  # the others first, nearest first
                found, index = found.gather(1, kept), index.gather(1, kept)
            distances[mine], entries[mine] = found[:, :k], index[:, :k]
        return distances, entries


def _numbered(values: Sequence[str]) -> torch.Tensor:
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(value, len(known)) for value in values])
