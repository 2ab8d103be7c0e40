"""Both stages of SPADE for a batch of images: nearest normal images, nearest gallery pixels, map and image score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fastspade.maps.process import gaussian_matrix
from fastspade.search import knn
from fastspade.search.windowed import windowed_pyramid_knn
from fastspade.spade.border import divisor
from fastspade.spade.device_bank import DeviceBank
from fastspade.spade.image_score import image_scores, reweighted_score
from fastspade.spade.origins import Origins
from fastspade.spade.relative import by_cell, relative_scores


def anomaly_maps(squared: torch.Tensor, size: tuple[int, int], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Squared distances (B, h, w, kappa) to the nearest gallery pixels -> maps (B, H, W) of `size`, smoothed.

    rows (H, H), columns (W, W): the smoothing along each axis, as of `gaussian_matrix`.
    """
    raw = squared.mean(dim=-1)[:, None]  # eq. 3
    maps = F.interpolate(raw, size=size, mode="bilinear", align_corners=False)[:, 0]
    return rows @ (maps @ columns.T)


def _inner_maps(
    squared: torch.Tensor, inside: torch.Tensor, size: tuple[int, int], rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """As anomaly_maps of the cells inside (B, h, w) alone, and 0 outside: what lies outside does not bleed in."""
    shares = inside[..., None].float()
    weights = anomaly_maps(shares, size, rows, columns)
    maps = anomaly_maps(squared * shares, size, rows, columns) / weights.clamp(min=1e-6)
    return maps * F.interpolate(shares[:, None, ..., 0], size=size)[:, 0]


def without_itself(distances: torch.Tensor, neighbors: torch.Tensor, itself: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each image's K + 1 nearest (B, K + 1) the K that are not the image itself (B,): leave one out."""
    out = neighbors == itself.to(neighbors.device)[:, None]
    out[:, -1] |= ~out.any(dim=1)  # where duplicates crowd the image itself out, the farthest goes instead
    return distances[~out].view(len(out), -1), neighbors[~out].view(len(out), -1)


@dataclass(frozen=True)
class Matches:
    """Of B images, on the host: scores (B,) float64, the image scores; neighbors (B, K) and their squared distances; nearest
    (B, h, w), the flat gallery index of every pixel's nearest neighbour; smoothed (B, H, W), the map of the network's input;
    inside (B, h, w) bool, the cells in the region of interest, None without one."""

    scores: torch.Tensor
    neighbors: torch.Tensor
    distances: torch.Tensor
    nearest: torch.Tensor
    smoothed: torch.Tensor
    inside: torch.Tensor | None = None


@dataclass(frozen=True)
class Matcher:
    """The options of Spade that matching depends on, by the same names; k and k_image are at most the usable images.
    ceiling: (h, w), for image_score "relative"."""

    k: int
    k_image: int
    kappa: int
    upsample: str
    sigma: float
    truncate: float
    image_score: str
    window: float | None
    per_level: bool
    precision: str
    ceiling: torch.Tensor | None = None
    origins: Origins | None = None  # of the bank's entries, where they are tiles or turned copies
    roi: bool = False  # the finest level's last channel tells cells outside the region of interest
    border: torch.Tensor | None = None  # the profile that maps are divided by

    def match(
        self,
        embeddings: torch.Tensor,
        pyramid: list[torch.Tensor],
        bank: DeviceBank,
        size: tuple[int, int],
        left_out: torch.Tensor | None = None,
        names: Sequence[str] = (),
    ) -> Matches:
        """embeddings (B, E) and pyramid of B images, on the bank's device, against it. size: of the crop, and so of the map.

        Both stages run on the device; their results are brought to the host.

        left_out: (B,) for each image the normal image that it may not be compared with. names: of the images, which matter where
        there are origins.
        """
        inside = None
        if self.roi:
            inside = (pyramid[0][:, -1] == 0).cpu()
            pyramid = [torch.cat([pyramid[0][:, :-1], torch.zeros_like(pyramid[0][:, -1:])], dim=1), *pyramid[1:]]
        wanted = max(self.k, self.k_image)
        if self.origins is not None:
            distances, neighbors = self.origins.nearest(embeddings, bank.embeddings, wanted, names, left_out, knn)
        else:
            distances, neighbors = bank.nearest(embeddings, wanted if left_out is None else wanted + 1)
            if left_out is not None:
                distances, neighbors = without_itself(distances, neighbors, left_out)
        used = neighbors[:, : self.k].contiguous()
        squared, indices = (found.cpu() for found in self._search(pyramid, bank, used, size))
        used, distances = used.cpu(), distances.cpu()
        rows, columns = (gaussian_matrix(side, self.sigma, self.truncate) for side in size)
        smoothed = (
            anomaly_maps(squared, size, rows, columns) if inside is None else _inner_maps(squared, inside, size, rows, columns)
        )
        if self.border is not None:
            smoothed = smoothed / divisor(self.border, (squared.shape[1], squared.shape[2]), size)
        if self.image_score == "reweighted":
            mine = [[level[i].cpu() for level in pyramid] for i in range(len(used))]
            scores = torch.tensor([
                reweighted_score(mine[i], bank.levels.gather, used[i], squared[i, ..., 0], indices[i, ..., 0], upsample=self.upsample)
                for i in range(len(used))
            ], dtype=torch.float64)  # fmt: skip
        elif self.image_score == "relative":
            if self.ceiling is None:
                raise TypeError("a Matcher of relative scores needs a ceiling")
            scores = relative_scores(by_cell(smoothed, (squared.shape[1], squared.shape[2])), self.ceiling)
        else:
            scores = image_scores(self.image_score, distances[:, : self.k_image], smoothed)
        return Matches(scores, used, distances[:, : self.k], indices[..., 0], smoothed, inside)

    def _search(
        self, pyramid: list[torch.Tensor], bank: DeviceBank, used: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 2: squared distances and flat indices, each (B, h, w, kappa)."""
        if self.window is None and not self.per_level:
            return bank.search(pyramid, self.kappa, used, self.precision)
        height, width = pyramid[0].shape[-2:]
        reach = max(size) if self.window is None else self.window
        radius = (int(reach * height / size[0]), int(reach * width / size[1]))
        # The windowed search is the CPU engine's, whatever the device.
        host, used = [level.cpu() for level in pyramid], used.cpu()
        squared, indices = windowed_pyramid_knn(
            host, bank.levels, self.kappa, radius,
            gallery_index=used, upsample=self.upsample, memory_limit=bank.memory_limit, per_level=self.per_level,
        )  # fmt: skip
        return squared / 2 if self.per_level else squared, indices
