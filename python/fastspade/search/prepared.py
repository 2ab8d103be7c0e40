"""A gallery made ready once and searched many times."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastspade.search.interchange import library_of, named_levels
from fastspade.search.ops import prepare_gallery
from fastspade.search.validation import UPSAMPLES, check_choice, check_pyramid


class PreparedGallery:
    """Gallery levels together with what a CUDA search derives from them; `pyramid_knn` takes it in the gallery's place.

    On CUDA it holds, beside the given tensors, 16-bit copies at native resolution and per-pixel norms: about half the
    size of float32 levels. The given tensors are used, not copied, and must not change. On the CPU it holds nothing more.

    levels: L tensors (N, C_l, H_l, W_l), finest first. upsample: as the searches will have it.
    operand: "float16" or "bfloat16", what the first pass multiplies; results are the same.
    """

    def __init__(self, levels: Sequence[torch.Tensor], *, upsample: str = "bilinear", operand: str = "float16") -> None:
        library = library_of(*named_levels("gallery", levels))
        self.levels = check_pyramid("gallery", library.levels("gallery", levels))
        self.upsample = check_choice("upsample", upsample, list(UPSAMPLES))
        self.operand = check_choice("operand", operand, ("float16", "bfloat16"))
        self.buffer = prepare_gallery(self.levels, upsample, operand)

    def __len__(self) -> int:
        return self.levels[0].shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes held beyond the given tensors."""
        count: int = self.buffer.numel()
        return count
