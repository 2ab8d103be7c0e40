"""Where the network's input lies in a photograph, and triangle-filter resampling between the two."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastspade.errors import InputError


@dataclass(frozen=True)
class CropBox:
    """The part of an image that the network saw, in pixels of the original (upright) image; edges need not be whole."""

    top: float
    left: float
    height: float
    width: float


def centre_crop(
    height: int, width: int, resize: int | tuple[int, int] | None, crop: int | tuple[int, int] | None
) -> tuple[CropBox, tuple[int, int]]:
    """Resize, then cut the middle out.

    resize: the shorter side, keeping the aspect ratio, or (height, width). crop: the sides of a square, or (height, width).
    The sizes and offsets are those of torchvision's Resize and CenterCrop; on square images 256 and 224 are the paper's.
    ``None`` leaves a step out. Returns the box in original pixels, which one resampling step can read directly, and the
    output's (height, width).

    Raises InputError where the crop is larger than the resized image.
    """
    if resize is None:
        resized = (height, width)
    elif isinstance(resize, tuple):
        resized = resize
    elif height <= width:
        resized = (resize, max(resize, int(resize * width / height)))
    else:
        resized = (max(resize, int(resize * height / width)), resize)
    out = resized if crop is None else crop if isinstance(crop, tuple) else (crop, crop)
    if out[0] > resized[0] or out[1] > resized[1]:
        raise InputError(f"crop must fit in the image: got crop {crop} for {resized[0]}x{resized[1]} pixels after resizing")
    if out == resized:
        return CropBox(0.0, 0.0, float(height), float(width)), out
    top, left = round((resized[0] - out[0]) / 2), round((resized[1] - out[1]) / 2)
    down, across = height / resized[0], width / resized[1]
    return CropBox(top * down, left * across, out[0] * down, out[1] * across), out


@dataclass(frozen=True)
class Fitting:
    """What a network asks of its input's size. multiple: of what its height and width must be multiples. side: of the square
    with as many pixels as it should be given. fixed: the one (height, width) that it takes, where it takes no other."""

    multiple: tuple[int, int] = (32, 32)
    side: int = 256
    fixed: tuple[int, int] | None = None

    def shared(self, sizes: Sequence[tuple[int, int]], shorter: int | None = None) -> tuple[int, int]:
        """The one (height, width) for pictures of several sizes: of their median aspect ratio.

        shorter: its shorter side in pixels; None: it has about side x side pixels, whatever its aspect.
        """
        if self.fixed is not None:
            return self.fixed
        aspect = math.exp(statistics.median(math.log(width / height) for height, width in sizes))
        height = self.side / math.sqrt(aspect) if shorter is None else shorter / min(1.0, aspect)
        down, across = self.multiple
        return max(1, round(height / down)) * down, max(1, round(height * aspect / across)) * across


def part_of(box: CropBox, size: tuple[int, int], window: tuple[int, int, int, int]) -> CropBox:
    """Where a window (top, left, height, width) of what `box` became, `size` (H, W) pixels, lies in the original."""
    down, across = box.height / size[0], box.width / size[1]
    top, left, height, width = window
    return CropBox(box.top + top * down, box.left + left * across, height * down, width * across)


def stretch(size: tuple[int, int], onto: tuple[int, int]) -> float:
    """How much more one side is scaled than the other where a picture of `size` is brought onto another size; 1: neither."""
    ratio = size[0] * onto[1] / (size[1] * onto[0])
    return max(ratio, 1 / ratio)


def triangle_weights(size: int, out: int, start: float, extent: float) -> torch.Tensor:
    """(out, size) float32: row i reads the i-th of ``out`` equal parts of [start, start + extent) from ``size`` pixels.

    Pixel j covers [j, j + 1). Linear interpolation when enlarging; when shrinking, the triangle widens with the
    step, which is the antialiased bilinear filter of Pillow. Positions beyond the ends read the end (edge value).
    """
    step = extent / out
    support = max(step, 1.0)
    centres = (start + (torch.arange(out, dtype=torch.float64) + 0.5) * step).clamp(0, size)
    pixels = torch.arange(size, dtype=torch.float64) + 0.5
    weights = (1 - (centres[:, None] - pixels).abs() / support).clamp_(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def resample(image: torch.Tensor, box: CropBox, out: tuple[int, int]) -> torch.Tensor:
    """Read ``box`` of ``image`` (..., H, W) float32 at ``out`` pixels -> (..., out_h, out_w), on the image's device."""
    rows = triangle_weights(image.shape[-2], out[0], box.top, box.height).to(image.device)
    columns = triangle_weights(image.shape[-1], out[1], box.left, box.width).to(image.device)
    return rows @ (image @ columns.T)
