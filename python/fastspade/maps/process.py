"""Anomaly maps: upsampling, smoothing and placement in the original image."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from fastspade.errors import DtypeError, InputError
from fastspade.images.geometry import CropBox, resample
from fastspade.torch_defaults import torch_defaults

BORDERS = ("lowest", "edge", "zero", "nan")

Map = torch.Tensor | np.ndarray


@torch_defaults()
def upsample(maps: Map, size: int | tuple[int, int]) -> torch.Tensor:
    """(B, h, w) or (h, w) -> the same at ``size`` (H, W), bilinear with align_corners=False, float32."""
    values = check_maps(maps)
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise InputError(f"size must be at least 1x1, got {height}x{width}")
    batch = values.reshape(-1, 1, *values.shape[-2:])
    grown = F.interpolate(batch, size=(height, width), mode="bilinear", align_corners=False)
    return grown.reshape(*values.shape[:-2], height, width)


@torch_defaults()
def smooth(maps: Map, sigma: float) -> torch.Tensor:
    """Gaussian smoothing of (B, H, W) or (H, W) by ``sigma`` pixels (SPADE smooths with 4); 0 leaves them as they are.

    As scipy.ndimage.gaussian_filter with its defaults: the kernel ends at 4 sigma, borders are reflected half-sample
    (d c b a | a b c d | d c b a).
    """
    values = check_maps(maps)
    if not (math.isfinite(sigma) and sigma >= 0):
        raise InputError(f"sigma must be a finite number of pixels, 0 or more, got {sigma}")
    if _radius(sigma) == 0:
        return values.clone()
    rows, columns = (gaussian_matrix(size, sigma).to(values.device) for size in values.shape[-2:])
    return rows @ (values @ columns.T)


def _radius(sigma: float, truncate: float = 4.0) -> int:
    return int(truncate * sigma + 0.5)


@torch_defaults()
def gaussian_matrix(size: int, sigma: float, truncate: float = 4.0) -> torch.Tensor:
    """(size, size) float32: one axis's smoothing, by a kernel that ends at `truncate` sigma. As a matrix product it runs several
    times faster than a convolution."""
    radius = _radius(sigma, truncate)
    if radius == 0:
        return torch.eye(size)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    position = (torch.arange(size)[:, None] + offsets.long()) % (2 * size)
    position = torch.minimum(position, 2 * size - 1 - position)  # mirrored as often as the radius needs
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, position, (kernel / kernel.sum()).expand(size, -1)).float()


@torch_defaults()
def place_in_image(maps: Map, crop: CropBox, size: tuple[int, int], *, border: str = "lowest") -> torch.Tensor:
    """Put a map of the crop back into the image it was cut from.

    maps: (h, w) or (B, h, w) covering ``crop`` at any resolution. crop: its place in the original image, from
    ImageBatch.crops. size: the original's (H, W). Returns (H, W) or (B, H, W) float32, linearly interpolated.
    border: what pixels outside the crop, which the network never saw, are given: "lowest" each map's own minimum, so that
    nothing is claimed there, "edge" the nearest value of the map, "zero" 0, "nan" NaN. (To keep the crop's own frame, use the map
    as it is.)
    """
    values = check_maps(maps)
    if border not in BORDERS:
        raise InputError(f"border must be one of {', '.join(map(repr, BORDERS))}, got {border!r}")
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"size must be at least 1x1, got {height}x{width}")
    # The whole image as a box in the map's pixels; positions beyond the map read its edge.
    down, across = values.shape[-2] / crop.height, values.shape[-1] / crop.width
    placed = resample(values, CropBox(-crop.top * down, -crop.left * across, height * down, width * across), (height, width))
    if border != "edge":
        outside = ~inside(crop, size).to(values.device)
        fill = {"lowest": values.amin(dim=(-2, -1), keepdim=True)}.get(
            border, torch.tensor(0.0 if border == "zero" else math.nan)
        )
        placed = torch.where(outside, fill.to(placed), placed)
    return placed


def inside(crop: CropBox, size: tuple[int, int]) -> torch.Tensor:
    """(H, W) bool: the pixels of an image of `size` that lie in the crop."""
    return _inside(size[0], crop.top, crop.height)[:, None] & _inside(size[1], crop.left, crop.width)


def _inside(size: int, start: float, extent: float) -> torch.Tensor:
    """(size,) bool: pixels whose centre lies in [start, start + extent]; the slack takes up rounding of the box."""
    centres = torch.arange(size, dtype=torch.float64) + 0.5
    return (centres >= start - 1e-6) & (centres <= start + extent + 1e-6)


def to_tensor(argument: str, values: object) -> torch.Tensor:
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(np.ascontiguousarray(values))
    if not isinstance(values, torch.Tensor):
        raise DtypeError(f"{argument} must be a tensor or an array, got {type(values).__name__}")
    return values


def check_maps(maps: object, *, finite: bool = True) -> torch.Tensor:
    """(H, W) or (B, H, W) -> float32 tensor; ``finite`` where NaN would spread to other pixels."""
    values = to_tensor("maps", maps).detach()
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise InputError(f"maps must have shape (H, W) or (B, H, W), none of them 0; got {tuple(values.shape)}")
    values = values.float()
    if finite and not bool(values.isfinite().all()):
        raise InputError("maps must be finite, got NaN or infinity")
    return values
