"""The bank as a device's searches want it: brought over once, laid out and prepared for them, or streamed.

On CUDA the features lie channels last, so that a pixel's vector is read whole, together with what `PreparedGallery` holds.
A bank that would fill more than its share of the device's free memory, or more than the memory limit, is streamed from host
memory or from disk.
"""

from __future__ import annotations

from typing import Any

import torch

from fastspade.bank import Snapshot
from fastspade.search import PreparedGallery, knn, pyramid_knn
from fastspade.search.cuda import gallery_bytes_cuda
from fastspade.search.levels import Levels, MemoryLevels, image_bytes
from fastspade.search.streamed import StreamedGallery, parts_of, streamed_pyramid_knn
from fastspade.search.validation import UPSAMPLES

# Of the memory free when the bank is brought over; the rest is for the backbone, the queries and the search.
SHARE_OF_FREE_MEMORY = 0.6
BROUGHT_AT_ONCE = 64 << 20  # bytes


class DeviceBank:
    """A bank on a device. `bank` is the state it was made from.

    memory_limit: bytes of features held at once, beyond those of a bank that is in memory anyway; None: what is free on
    CUDA, and as little as is good on the CPU. levels: the pyramids, for what is done on the host. Raises InputError where
    the limit is too little for streaming.
    """

    def __init__(self, bank: Snapshot, device: torch.device, upsample: str, memory_limit: int | None = None) -> None:
        self.bank, self.device, self.upsample, self.memory_limit = bank, device, upsample, memory_limit
        self.embeddings = bank.embeddings.to(device)
        self.levels: Levels = bank.levels
        self._gallery: tuple[torch.Tensor, ...] | PreparedGallery | StreamedGallery
        size = len(bank) * image_bytes(bank.levels)
        if device.type == "cuda":
            most = SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]
            held = size + gallery_bytes_cuda(bank.levels.shapes, len(bank), device, UPSAMPLES[upsample])
            if held <= min(most, most if memory_limit is None else memory_limit):
                self._gallery = PreparedGallery(self._brought(device), upsample=upsample)
                return
        elif bank.levels.whole is not None or (memory_limit is not None and size <= memory_limit):
            self.levels = MemoryLevels(bank.pyramid)
            self._gallery = self.levels.whole
            return
        self._gallery = StreamedGallery(bank.levels, memory_limit, device=device)

    def _brought(self, device: torch.device) -> list[torch.Tensor]:
        """The whole pyramids on the device, channels last, read in parts."""
        levels = [
            torch.empty((len(self.bank), *shape), dtype=self.levels.dtype, device=device, memory_format=torch.channels_last)
            for shape in self.levels.shapes
        ]
        for images in parts_of(self.levels, torch.arange(len(self.bank), device="cpu"), BROUGHT_AT_ONCE):
            for level, part in zip(levels, self.levels.gather(images), strict=True):
                level[int(images[0]) : int(images[-1]) + 1] = part.to(device)
        return levels

    def nearest(self, embeddings: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 1, as Snapshot.nearest, on the device."""
        return knn(embeddings, self.embeddings, k)

    def search(
        self, pyramid: list[torch.Tensor], kappa: int, gallery_index: torch.Tensor, precision: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 2: `pyramid_knn` over the bank."""
        options: dict[str, Any] = dict(gallery_index=gallery_index, upsample=self.upsample, precision=precision)
        if isinstance(self._gallery, StreamedGallery):
            return streamed_pyramid_knn(pyramid, self._gallery, kappa, **options)
        return pyramid_knn(pyramid, self._gallery, kappa, **options)
