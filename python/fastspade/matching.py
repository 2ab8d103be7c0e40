"""Both stages of SPADE for a batch of images: nearest normal images, nearest gallery pixels, map and image score."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastspade import maps
from fastspade.resident import ResidentBank
from fastspade.reweight import reweighted_score
from fastspade.search.windowed import windowed_pyramid_knn


@dataclass(frozen=True)
class Matches:
    """Of B images: scores, B image scores; neighbors (B, K) and their squared distances; nearest (B, h, w), the flat
    gallery index of every pixel's nearest neighbour; smoothed (B, crop, crop), the map of the crop."""

    scores: list[float]
    neighbors: torch.Tensor
    distances: torch.Tensor
    nearest: torch.Tensor
    smoothed: torch.Tensor


@dataclass(frozen=True)
class Matcher:
    """The options of Spade that matching depends on, by the same names; k and k_image are at most the usable images."""

    k: int
    k_image: int
    kappa: int
    upsample: str
    sigma: float
    image_score: str
    window: float | None
    precision: str

    def match(
        self,
        embeddings: torch.Tensor,
        pyramid: list[torch.Tensor],
        bank: ResidentBank,
        size: tuple[int, int],
        left_out: torch.Tensor | None = None,
    ) -> Matches:
        """embeddings (B, E) and pyramid of B images, on the bank's device, against it. size: of the crop, and so of the map.

        Both stages run on the device; their results are brought to the host.

        left_out: (B,) for each image the normal image that it may not be compared with.
        """
        wanted = max(self.k, self.k_image)
        distances, neighbors = bank.nearest(embeddings, wanted if left_out is None else wanted + 1)
        if left_out is not None:
            out = neighbors == left_out.to(neighbors.device)[:, None]
            out[:, -1] |= ~out.any(dim=1)  # where the image itself is not among them, the farthest goes instead
            distances, neighbors = (values[~out].view(len(out), wanted) for values in (distances, neighbors))
        used = neighbors[:, : self.k].contiguous()
        squared, indices = (found.cpu() for found in self._search(pyramid, bank, used, size))
        used, distances = used.cpu(), distances.cpu()
        raw = squared.mean(dim=-1)  # eq. 3
        smoothed = maps.smooth(maps.upsample(raw, size), self.sigma)
        scores = []
        for i in range(len(embeddings)):
            if self.image_score == "reweighted":
                nearest, place = squared[i, ..., 0], indices[i, ..., 0]
                mine = [level[i].cpu() for level in pyramid]
                scores.append(reweighted_score(mine, bank.levels.gather, used[i], nearest, place, upsample=self.upsample))
            else:
                scores.append(self._image_score(distances[i, : self.k_image], smoothed[i]))
        return Matches(scores, used, distances[:, : self.k], indices[..., 0], smoothed)

    def _search(
        self, pyramid: list[torch.Tensor], bank: ResidentBank, used: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 2: squared distances and flat indices, each (B, h, w, kappa)."""
        if self.window is None:
            return bank.search(pyramid, self.kappa, used, self.precision)
        height, width = pyramid[0].shape[-2:]
        radius = (int(self.window * height / size[0]), int(self.window * width / size[1]))
        # The windowed search is torch code on the host, whatever the device.
        host, used = [level.cpu() for level in pyramid], used.cpu()
        return windowed_pyramid_knn(host, bank.levels, self.kappa, radius, gallery_index=used, upsample=self.upsample)

    def _image_score(self, distances: torch.Tensor, smoothed: torch.Tensor) -> float:
        if self.image_score == "knn":
            return float(distances.double().mean())
        if self.image_score == "max":
            return float(smoothed.max())
        count = max(1, smoothed.numel() // 100)
        return float(smoothed.flatten().topk(count).values.double().mean())
