"""The foreground found by itself: a picture's cells split along the first principal direction of the normal images' features.

As few-shot methods over DINO features do. The direction runs from what lies along the borders, taken for background, to the
rest; Otsu's threshold splits the normal images' cells, and each picture's mask is cleaned: small pieces go, holes are filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastspade.errors import InputError, ModelFileError

LEAST = 0.1  # of the largest piece, for another one to stay


@dataclass(frozen=True)
class Foreground:
    """mean, direction: (C,) of unit-length features of the coarsest level. threshold: of their projection."""

    mean: torch.Tensor
    direction: torch.Tensor
    threshold: float

    @classmethod
    def learnt(cls, level: torch.Tensor) -> Foreground:
        """From the coarsest level (N, C, h, w) of normal images."""
        cells = _cells(level).double()
        mean = cells.mean(dim=(0, 1))
        flat = (cells - mean).flatten(0, 1)
        if not bool(flat.abs().max() > 1e-9):
            raise InputError("roi='auto' finds no foreground: the normal images' features are alike everywhere")
        direction = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -1]
        along = ((cells - mean) @ direction).view(len(level), *level.shape[-2:])
        if _border(along).mean() > along.mean():
            direction, along = -direction, -along
        return cls(mean.float(), direction.float(), _otsu(along.numpy().ravel()))

    def mask(self, level: torch.Tensor) -> torch.Tensor:
        """(B, h, w) bool of the coarsest level (B, C, h, w); all of it where nothing stands out."""
        along = ((_cells(level.cpu()) - self.mean) @ self.direction).view(len(level), *level.shape[-2:])
        return torch.from_numpy(np.stack([_cleaned(one) for one in (along > self.threshold).numpy()]))

    def as_dict(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "direction": self.direction.tolist(), "threshold": self.threshold}

    @classmethod
    def from_dict(cls, values: Any) -> Foreground:
        """Raises ModelFileError where a model file's is not usable."""
        try:
            made = cls(
                torch.tensor(values["mean"]).float(), torch.tensor(values["direction"]).float(), float(values["threshold"])
            )
            if (
                made.mean.ndim != 1
                or made.mean.shape != made.direction.shape
                or not bool((made.mean + made.direction).isfinite().all())
            ):
                raise ValueError("its mean and direction must be finite vectors of one length")
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"path: the model's foreground is not usable: {error}") from error
        return made


def _cells(level: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) -> (N, h w, C), of unit length."""
    return torch.nn.functional.normalize(level.flatten(2).transpose(1, 2).float(), dim=2)


def _border(along: torch.Tensor) -> torch.Tensor:
    inner = torch.zeros(along.shape[1:], dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    return along[:, ~inner]


def _otsu(values: np.ndarray) -> float:
    """The threshold between the two classes whose variance within is least (Otsu 1979)."""
    ordered = np.sort(values)
    below = np.arange(1, len(ordered))
    left = np.cumsum(ordered)[:-1]
    between = (left / below - (ordered.sum() - left) / (len(ordered) - below)) ** 2 * below * (len(ordered) - below)
    best = int(between.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2)


def _cleaned(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage  # not at the top: every command would wait for it

    filled: np.ndarray = ndimage.binary_fill_holes(mask)
    pieces, count = ndimage.label(filled, structure=np.ones((3, 3)))
    if count == 0:
        return np.ones_like(mask)
    sizes = np.bincount(pieces.ravel())[1:]
    kept = np.isin(pieces, 1 + np.flatnonzero(sizes >= LEAST * sizes.max()))
    grown: np.ndarray = ndimage.binary_dilation(kept, structure=np.ones((3, 3)))  # the part's edge belongs to it
    return grown
