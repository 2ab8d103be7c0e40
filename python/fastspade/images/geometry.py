"""Where the network's input lies in a photograph, and triangle-filter resampling between the two."""

from __future__ import annotations

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


def centre_crop(height: int, width: int, resize: int | None, crop: int | None) -> tuple[CropBox, tuple[int, int]]:
    """Resize the shorter side to ``resize``, keeping the aspect ratio, then cut the central ``crop`` x ``crop``.

    The sizes and offsets are those of torchvision's Resize and CenterCrop; on square images this is the paper's
    256 x 256 and 224 x 224. ``None`` leaves a step out. Returns the box in original pixels, which one resampling
    step can read directly, and the output's (height, width).

    Raises InputError where the crop is larger than the resized image.
    """
    if resize is None:
        resized = (height, width)
    elif height <= width:
        resized = (resize, max(resize, int(resize * width / height)))
    else:
        resized = (max(resize, int(resize * height / width)), resize)
    out = resized if crop is None else (crop, crop)
    if out[0] > resized[0] or out[1] > resized[1]:
        raise InputError(f"crop must fit in the image: got crop {crop} for {resized[0]}x{resized[1]} pixels after resizing")
    top, left = round((resized[0] - out[0]) / 2), round((resized[1] - out[1]) / 2)
    down, across = height / resized[0], width / resized[1]
    return CropBox(top * down, left * across, out[0] * down, out[1] * across), out


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
