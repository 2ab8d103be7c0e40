"""The bank as a device's searches want it: brought over once, laid out and prepared for them.

On CUDA the features lie channels last, so that a pixel's vector is read whole, together with what `PreparedGallery` holds.
A bank that would fill more than its share of the device's free memory stays in host memory and is streamed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastspade.bank import Snapshot
from fastspade.search import PreparedGallery, knn

# Of the memory free when the bank is brought over; the rest is for the backbone, the queries and the search.
SHARE_OF_FREE_MEMORY = 0.6


class ResidentBank:
    """A bank on a device. `bank` is the one it was made from, in host memory.

    gallery: what `pyramid_knn` searches: the levels on the device, prepared; or the host's, to be streamed.
    """

    def __init__(self, bank: Snapshot, device: torch.device, upsample: str) -> None:
        self.bank, self.device, self.upsample = bank, device, upsample
        self.embeddings = bank.embeddings.to(device)
        self.gallery: PreparedGallery | Sequence[torch.Tensor] = bank.pyramid
        if device.type != "cuda":
            return
        needed = 1.6 * sum(level.numel() * level.element_size() for level in bank.pyramid)  # with 16-bit copies and norms
        if needed <= SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]:
            levels = [level.to(device, memory_format=torch.channels_last) for level in bank.pyramid]
            self.gallery = PreparedGallery(levels, upsample=upsample)

    def nearest(self, embeddings: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 1, as Snapshot.nearest, on the device."""
        return knn(embeddings, self.embeddings, k)
