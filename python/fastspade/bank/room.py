"""Tensors that grow at their end: of a bank that is added to image by image, every image is copied a bounded number of times."""

from __future__ import annotations

from collections.abc import Sequence

import torch

SPARE = 0.5  # of what is there; the system gives memory to what is written alone


class Room:
    """Memory for tensors (N, ...), with spare rows behind them. What was handed out before is never written again."""

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._used = 0

    def extended(self, old: Sequence[torch.Tensor], new: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Every tensor of `old` (N, ...) with that of `new` (n, ...) behind it; `old` is copied where it does not lie here, or there
        is no more room."""
        count, total = len(old[0]), len(old[0]) + len(new[0])
        here = [one.data_ptr() for one in self._buffers] == [one.data_ptr() for one in old]
        if not here or self._used != count or total > len(self._buffers[0]):
            rows = total + int(SPARE * count)
            self._buffers = [torch.empty((rows, *one.shape[1:]), dtype=one.dtype, device="cpu") for one in old]
            for buffer, one in zip(self._buffers, old, strict=True):
                buffer[:count] = one
        for buffer, one in zip(self._buffers, new, strict=True):
            buffer[count:total] = one
        self._used = total
        return [buffer[:total] for buffer in self._buffers]
