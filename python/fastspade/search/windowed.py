"""`pyramid_knn` with a positional window: a pixel is matched only to gallery pixels near its own place.

Not part of SPADE: an option for images that are aligned. The CPU engine does it, whatever device the features come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastspade.errors import DtypeError, InputError
from fastspade.search.cpu import search_cpu
from fastspade.search.levels import Levels, MemoryLevels
from fastspade.search.streamed import PART_BYTES, merge_nearest, parts_of, positions_within, read_ahead
from fastspade.search.validation import (
    UPSAMPLES,
    check_choice,
    check_gallery_index,
    check_kappa,
    check_pair,
    check_pyramid,
)


def windowed_pyramid_knn(
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor] | Levels,
    kappa: int,
    radius: tuple[int, int],
    *,
    gallery_index: torch.Tensor | None = None,
    upsample: str = "bilinear",
    memory_limit: int | None = None,
    per_level: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The contract of `pyramid_knn`, over gallery pixels at most `radius` rows and columns from the query pixel's place.

    gallery: levels, or where they are read from, in parts. memory_limit: bytes of those held at once, of which two images are the
    least; None: about 512 MiB. radius: (rows, columns) of the finest level, 0 or more. per_level: each level, all of one size, is
    searched by itself; distances are the mean over the levels, and indices those of the last.
    kappa must fit in the window of a corner pixel. Exact, as pyramid_knn is: distances (B, H_1, W_1, kappa) float32,
    ascending, ties to the lower index; indices int64.
    """
    queries = check_pyramid("query", query)
    if isinstance(gallery, Sequence):
        checked = check_pyramid("gallery", gallery)
        check_pair(queries, checked)
        gallery = MemoryLevels(checked)
    check_choice("upsample", upsample, list(UPSAMPLES))
    device, count = queries[0].device, len(queries[0])
    if gallery_index is None:
        gallery_index = torch.arange(len(gallery), device=device).expand(count, -1)
    gallery_index = check_gallery_index(gallery_index, count, device)
    if gallery_index.min() < 0 or gallery_index.max() >= len(gallery):
        raise InputError(
            f"gallery_index must name images 0 to {len(gallery) - 1}, got {gallery_index.min()} to {gallery_index.max()}"
        )
    height, width = queries[0].shape[2:]
    for value in radius:
        if isinstance(value, bool) or not isinstance(value, int):
            raise DtypeError(f"radius must be two integers, got {radius!r}")
        if value < 0:
            raise InputError(f"radius must be 0 or more, got {radius}")
    corner = min(radius[0] + 1, height) * min(radius[1] + 1, width) * gallery_index.shape[1]
    kappa = check_kappa(kappa, corner, "pixels in a corner's window")
    shape, searches = (count, height, width, kappa), [slice(None)]
    if per_level:
        if any(level.shape[2:] != queries[0].shape[2:] for level in queries):
            raise InputError(f"per_level needs levels of one size, got {[tuple(level.shape[2:]) for level in queries]}")
        searches = [slice(i, i + 1) for i in range(len(queries))]
    if gallery.whole is not None:
        levels = list(gallery.whole)
        alone = [
            search_cpu(queries[own], levels[own], kappa, gallery_index, UPSAMPLES[upsample], radius=radius)[:2]
            for own in searches
        ]
        return torch.stack([distances for distances, _ in alone]).mean(0).view(shape), alone[-1][1].view(shape)
    # Images that are not in memory pass in parts. Where one has fewer than kappa pixels in a window, the rest is infinity.
    best = torch.full((len(searches), count, height * width, kappa), torch.inf)
    places = torch.full((len(searches), count, height * width, kappa), -1)
    parts = parts_of(gallery, gallery_index.unique(), PART_BYTES if memory_limit is None else memory_limit // 2)
    source = read_ahead(gallery, parts)
    for part in parts:
        levels = next(source)
        for b in range(count):
            mine = positions_within(part, gallery_index[b])
            if mine.numel() == 0:
                continue
            one = [level[b : b + 1] for level in queries]
            reach = min(kappa, mine.numel() * height * width)
            for s, own in enumerate(searches):
                found, at, _ = search_cpu(one[own], levels[own], reach, mine, UPSAMPLES[upsample], radius=radius)
                flat = torch.where(
                    at < 0, -1, part[(at // (height * width)).clamp_min(0)] * height * width + at % (height * width)
                )
                best[s, b], places[s, b] = merge_nearest(best[s, b], places[s, b], found, flat, kappa)
        del levels  # before the next is asked for
    return best.mean(0).view(shape), places[-1].view(shape)
