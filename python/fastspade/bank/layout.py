"""How one image's features lie in a shard: all levels one after another, so that an image is one stretch of the file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastspade.bank.snapshot import STORAGE_DTYPES
from fastspade.search.levels import Shape

PAGE = 4096
_TYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


@dataclass(frozen=True)
class Layout:
    """shapes: (C_l, H_l, W_l) of every level, finest first. embedding: its width. dtype: of the features, by name."""

    shapes: tuple[Shape, ...]
    embedding: int
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        return STORAGE_DTYPES[self.dtype]

    @property
    def width(self) -> int:
        """Features of an image."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def image_bytes(self) -> int:
        return self.width * _TYPES[self.dtype][1]

    def split(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """(n, width) -> levels (n, C_l, H_l, W_l), as views."""
        sizes = [math.prod(shape) for shape in self.shapes]
        return [part.unflatten(1, shape) for part, shape in zip(rows.split(sizes, dim=1), self.shapes, strict=True)]

    def join(self, pyramid: Sequence[torch.Tensor]) -> torch.Tensor:
        """Levels (n, C_l, H_l, W_l) -> (n, width)."""
        return torch.cat([level.flatten(1) for level in pyramid], dim=1)

    def tail_bytes(self, images: int, name_bytes: int) -> int:
        """Bytes of what follows the features in a shard."""
        return images * (4 * self.embedding + 32 + 8 + 8) + name_bytes

    def header(self, images: int, name_bytes: int) -> bytes:
        """The whole safetensors header of a shard, its length in front, filled up with spaces to whole pages.

        It follows from the numbers given, so that readers compare it and never trust it.
        """
        tensors = (
            ("features", _TYPES[self.dtype][0], [images, self.width], images * self.image_bytes),
            ("embeddings", "F32", [images, self.embedding], 4 * images * self.embedding),
            ("sha256", "U8", [images, 32], 32 * images),
            ("ids", "I64", [images], 8 * images),
            ("name_ends", "I64", [images], 8 * images),
            ("names", "U8", [name_bytes], name_bytes),
        )
        levels = json.dumps([list(shape) for shape in self.shapes])
        entries: dict[str, object] = {"__metadata__": {"format": "fastspade-shard", "version": "1", "levels": levels}}
        start = 0
        for name, dtype, shape, size in tensors:
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
            start += size
        text = json.dumps(entries).encode()
        room = self.header_bytes - 8
        return room.to_bytes(8, "little") + text.ljust(room)

    @property
    def header_bytes(self) -> int:
        """The header's size, the same for any number of images: the features begin here."""
        return -(-(1024 + 32 * len(self.shapes)) // PAGE) * PAGE
