"""A fitted Spade in Ray's object store: its bank lies there once per node, and all actors of the node read that memory."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from fastspade.bank import Bank
from fastspade.spade import Spade
from fastspade.spade.leave_one_out import current_ceiling


@dataclass(frozen=True)
class Shipped:
    """model: without its bank. arrays: embeddings, then the levels, as bytes, which Ray hands out without copying."""

    model: Spade
    arrays: list[tuple[np.ndarray, torch.dtype, tuple[int, ...]]]
    names: tuple[str, ...]
    ids: tuple[int, ...]
    next_id: int

    @classmethod
    def pack(cls, model: Spade) -> Shipped:
        bank = model.fitted_bank().snapshot
        current_ceiling(model, bank)  # once, not by every actor
        bare = copy.copy(model)
        bare.bank, bare._device_bank = None, None
        tensors = [tensor.contiguous() for tensor in (bank.embeddings, *bank.pyramid)]
        arrays = [(tensor.reshape(-1).view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape)) for tensor in tensors]
        return cls(bare, arrays, bank.names, bank.ids, bank.next_id)

    def unpack(self) -> Spade:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the memory cannot be written; a bank's is never
            tensors = [torch.from_numpy(array).view(dtype).view(shape) for array, dtype, shape in self.arrays]
        model = copy.copy(self.model)
        model.bank = Bank(tensors[0], tensors[1:], self.names, self.ids, next_id=self.next_id, extractor=model.extractor)
        return model
