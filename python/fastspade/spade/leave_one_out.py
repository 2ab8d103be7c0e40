"""Normal images matched against each other, each against all the others: what thresholds, ceilings and the border's
profile are made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from fastspade.backbones.extractor import Features
from fastspade.bank import Snapshot
from fastspade.files.progress import progress_bar
from fastspade.search import knn
from fastspade.spade.border import profile_of
from fastspade.spade.duplicates import without_duplicates
from fastspade.spade.fitted import FittedModel
from fastspade.spade.matching import Matches, without_itself
from fastspade.spade.relative import Ceiling, by_cell, ceiling_of, left_out_relative_scores, relative_scores
from fastspade.spade.threshold import MATCHED

# Held while a ceiling is made: threads that score with one Spade share it.
_ceiling_guard = threading.Lock()


def evenly_spread(images: int) -> torch.Tensor:
    """(n,) int64: which of a bank's images thresholds and ceilings are made of."""
    return torch.linspace(0, images - 1, min(images, MATCHED), dtype=torch.float64).round().long()


def judged(model: FittedModel, bank: Snapshot, every: bool = False) -> torch.Tensor:
    """(n,) int64: the entries of the bank that stand for some of its images as they are, without turned copies; of an image in
    tiles all tiles. every: of all images."""
    origins = model.origins_of(bank)
    if origins is None:
        return torch.arange(len(bank)) if every else evenly_spread(len(bank))
    pictures = int(origins.picture.max()) + 1
    wanted = torch.arange(pictures) if every else evenly_spread(pictures)
    return (origins.plain & torch.isin(origins.picture, wanted)).nonzero()[:, 0]


def picture_scores(model: FittedModel, bank: Snapshot, chosen: torch.Tensor, scores: np.ndarray) -> np.ndarray:
    """The scores of the images that entries (n,) stand for: the highest of an image's tiles, in the bank's order."""
    origins = model.origins_of(bank)
    if origins is None:
        return scores
    pictures, place = origins.picture[chosen].unique(return_inverse=True)
    found = np.full(len(pictures), -np.inf)
    np.maximum.at(found, place.numpy(), scores)
    return found


def _of_ceiling(model: FittedModel, bank: Snapshot) -> torch.Tensor:
    """The entries that a ceiling is made of."""
    origins = model.origins_of(bank)
    if origins is None:
        return evenly_spread(len(bank))
    plain = origins.plain.nonzero()[:, 0]
    return plain[evenly_spread(len(plain))]


def left_out_scores(
    model: FittedModel, bank: Snapshot, chosen: torch.Tensor, watch: Callable[[Matches], None] | None = None
) -> np.ndarray:
    """(n,) float64: the image scores of some normal images, each against all the others. watch: is shown every match.

    Of image_score "relative" the model keeps the ceiling, which is found on the way.
    """
    if model.image_score == "knn" and watch is None and model.origins_of(bank) is None:  # stage 1 alone
        k_image = min(model.k if model.k_image is None else model.k_image, len(bank) - 1)
        distances, neighbors = knn(bank.embeddings[chosen], bank.embeddings, k_image + 1)
        return without_itself(distances, neighbors, chosen)[0].double().mean(dim=1).numpy()
    relative = model.image_score == "relative"
    scores, cells = [], []
    for found in _leave_one_out(model, bank, chosen):
        scores.append(found.scores)
        if relative:
            cells.append(by_cell(found.smoothed, (found.nearest.shape[-2], found.nearest.shape[-1])))
        if watch is not None:
            watch(found)
    if not relative:
        return torch.cat(scores).numpy()
    by_image, spread = torch.cat(cells), torch.isin(chosen, _of_ceiling(model, bank))
    ceiling = ceiling_of(by_image[spread])
    model.ceiling = Ceiling(ceiling, len(bank), bank.next_id)
    found_scores = relative_scores(by_image, ceiling)
    found_scores[spread] = left_out_relative_scores(by_image[spread])
    return found_scores.numpy()


def _leave_one_out(model: FittedModel, bank: Snapshot, chosen: torch.Tensor) -> Iterator[Matches]:
    """Some normal images matched against all the others, batch by batch, from the features kept."""
    model.check_kappa(len(bank) - 1, bank.levels.shapes)
    matcher, gallery = model.matcher(bank, left_out=1), model.device_bank(bank)
    with progress_bar(len(chosen), "calibrate", model.progress) as bar:
        for batch in chosen.split(model.batch_size):
            pyramid = [level.float().to(model.search_device) for level in bank.levels.gather(batch)]
            embeddings = bank.embeddings[batch].to(model.search_device)
            names = [bank.names[i] for i in batch.tolist()]
            yield matcher.match(embeddings, pyramid, gallery, model.input_size, left_out=batch, names=names)
            bar.update(len(batch))


def border_profile(model: FittedModel, bank: Snapshot, mirrored: Sequence[tuple[int, Features]]) -> torch.Tensor | None:
    """The profile of `fastspade.spade.border`, from mirrored normal images and which entries of the bank they are.
    None where there are none."""
    if not mirrored:
        return None
    origins = model.origins_of(bank)
    alone = (len(bank) - 1 if origins is None else origins.usable(leave_out=True)) < 1
    matcher, gallery = model.matcher(bank, left_out=0 if alone else 1, border=False), model.device_bank(bank)
    cells = []
    for entry, one in mirrored:
        pyramid = [level.to(model.search_device) for level in one.pyramid]
        left_out = None if alone else torch.tensor([entry])
        found = matcher.match(
            one.embeddings.to(model.search_device), pyramid, gallery, model.input_size, left_out=left_out, names=one.names
        )
        cells.append(by_cell(found.smoothed, (found.nearest.shape[1], found.nearest.shape[2])))
    return profile_of(torch.cat(cells))


def current_ceiling(model: FittedModel, bank: Snapshot) -> torch.Tensor | None:
    """(h, w) of image_score "relative", made where the model has none of this bank; None for other scores."""
    if model.image_score != "relative":
        return None
    with _ceiling_guard:
        if model.ceiling is None or (model.ceiling.images, model.ceiling.next_id) != (len(bank), bank.next_id):
            origins = model.origins_of(bank)
            once = without_duplicates(bank)
            if len(once) > 1 and (origins is None or origins.usable(leave_out=True) > 0):
                left_out_scores(model, once, _of_ceiling(model, once))
                assert model.ceiling is not None
                model.ceiling = replace(model.ceiling, images=len(bank))
            else:  # nothing to compare a single image with: the same everywhere
                model.ceiling = Ceiling(torch.ones(bank.levels.shapes[0][1:]), 1, bank.next_id)
        return model.ceiling.values if model.ceiling is not None else None
