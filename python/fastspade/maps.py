"""Anomaly maps: upsampling, smoothing, placement in the original image, and pictures of them."""

from __future__ import annotations

import math
import os
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from fastspade.decode import as_rgb
from fastspade.errors import DtypeError, InputError
from fastspade.geometry import CropBox, resample

__all__ = ["BORDERS", "color_table", "colorbar", "heatmap", "overlay", "place_in_image", "smooth", "upsample"]

BORDERS = ("edge", "zero", "nan")

Map = torch.Tensor | np.ndarray


def upsample(maps: Map, size: int | tuple[int, int]) -> torch.Tensor:
    """(B, h, w) or (h, w) -> the same at ``size`` (H, W), bilinear with align_corners=False, float32."""
    values = _check_maps(maps)
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise InputError(f"size must be at least 1x1, got {height}x{width}")
    batch = values.reshape(-1, 1, *values.shape[-2:])
    grown = F.interpolate(batch, size=(height, width), mode="bilinear", align_corners=False)
    return grown.reshape(*values.shape[:-2], height, width)


def smooth(maps: Map, sigma: float) -> torch.Tensor:
    """Gaussian smoothing of (B, H, W) or (H, W) by ``sigma`` pixels (SPADE smooths with 4); 0 leaves them as they are.

    As scipy.ndimage.gaussian_filter with its defaults: the kernel ends at 4 sigma, borders are reflected half-sample
    (d c b a | a b c d | d c b a).
    """
    values = _check_maps(maps)
    if not (math.isfinite(sigma) and sigma >= 0):
        raise InputError(f"sigma must be a finite number of pixels, 0 or more, got {sigma}")
    if _radius(sigma) == 0:
        return values.clone()
    rows, columns = (gaussian_matrix(size, sigma).to(values.device) for size in values.shape[-2:])
    return rows @ (values @ columns.T)


def _radius(sigma: float) -> int:
    return int(4 * sigma + 0.5)


def gaussian_matrix(size: int, sigma: float) -> torch.Tensor:
    """(size, size) float32: one axis's smoothing. As a matrix product it runs several times faster than a convolution."""
    radius = _radius(sigma)
    if radius == 0:
        return torch.eye(size)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    position = (torch.arange(size)[:, None] + offsets.long()) % (2 * size)
    position = torch.minimum(position, 2 * size - 1 - position)  # mirrored as often as the radius needs
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, position, (kernel / kernel.sum()).expand(size, -1)).float()


def place_in_image(maps: Map, crop: CropBox, size: tuple[int, int], *, border: str = "edge") -> torch.Tensor:
    """Put a map of the crop back into the image it was cut from.

    maps: (h, w) or (B, h, w) covering ``crop`` at any resolution. crop: its place in the original image, from
    ImageBatch.crops. size: the original's (H, W). Returns (H, W) or (B, H, W) float32, linearly interpolated.
    border: what pixels outside the crop, which the network never saw, are given: "edge" the nearest value of the map,
    "zero" 0, "nan" NaN. (To keep the crop's own frame, use the map as it is.)
    """
    values = _check_maps(maps)
    if border not in BORDERS:
        raise InputError(f"border must be one of {', '.join(map(repr, BORDERS))}, got {border!r}")
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"size must be at least 1x1, got {height}x{width}")
    # The whole image as a box in the map's pixels; positions beyond the map read its edge.
    down, across = values.shape[-2] / crop.height, values.shape[-1] / crop.width
    placed = resample(values, CropBox(-crop.top * down, -crop.left * across, height * down, width * across), (height, width))
    if border != "edge":
        rows = _inside(height, crop.top, crop.height).to(values.device)
        columns = _inside(width, crop.left, crop.width).to(values.device)
        placed = placed.masked_fill(~(rows[:, None] & columns), 0.0 if border == "zero" else float("nan"))
    return placed


def _inside(size: int, start: float, extent: float) -> torch.Tensor:
    """(size,) bool: pixels whose centre lies in [start, start + extent]; the slack takes up rounding of the box."""
    centres = torch.arange(size, dtype=torch.float64) + 0.5
    return (centres >= start - 1e-6) & (centres <= start + extent + 1e-6)


@lru_cache(maxsize=1)
def color_table(steps: int = 256) -> np.ndarray:
    """(steps, 3) uint8 sRGB: dark violet over red and orange to pale yellow; equal steps look equally large.

    Made in OKLab (B. Ottosson, 2020): lightness rises from 0.20 to 0.95, hue turns from 290 through 0 to 105 degrees, and
    chroma is a smooth arch kept inside sRGB. The curve is then walked in steps of equal OKLab length.
    """
    t = np.linspace(0, 1, 4096)
    lightness = 0.20 + 0.75 * t
    hue = np.deg2rad(290 + 175 * t)
    chroma = 0.19 * np.sin(np.pi * (0.10 + 0.72 * t))
    # Shrink chroma where the colour leaves sRGB: bisection on the largest factor that fits, point by point.
    low, high = np.zeros_like(t), np.ones_like(t)
    for _ in range(24):
        middle = (low + high) / 2
        linear = _oklab_to_linear_rgb(lightness, middle * chroma, hue)
        fits = ((linear >= 0) & (linear <= 1)).all(axis=1)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    chroma = chroma * low
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(lab, axis=0), axis=1))])
    at = np.interp(np.linspace(0, length[-1], steps), length, t)
    linear = _oklab_to_linear_rgb(*(np.interp(at, t, curve) for curve in (lightness, chroma, hue))).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table = np.round(255 * encoded).astype(np.uint8)
    table.setflags(write=False)  # it is cached and shared
    return table


def _oklab_to_linear_rgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """OKLab's published inverse: Lab -> cube roots of cone responses -> linear sRGB."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ],
        axis=1,
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    rgb: np.ndarray = cones**3 @ to_rgb.T
    return rgb


def heatmap(maps: Map, *, vmin: float | None = None, vmax: float | None = None) -> np.ndarray:
    """(..., H, W) -> (..., H, W, 3) uint8 RGB in the colours of color_table; NaN is gray.

    vmin, vmax: the values of the first and the last colour. None: the smallest and largest value of all maps given,
    so maps passed together share a scale; pass both to share it across calls.
    """
    values = _check_maps(maps, finite=False).cpu().numpy()
    low, high = _scale(values, vmin, vmax)
    known = np.isfinite(values)
    unit = (np.where(known, values, low).astype(np.float64) - low) / ((high - low) or 1.0)
    colors: np.ndarray = color_table()[np.rint(unit.clip(0, 1) * 255).astype(np.uint8)]
    colors[np.isnan(values)] = 128
    colors[np.isposinf(values)] = color_table()[-1]
    return colors


def _scale(values: np.ndarray, vmin: float | None, vmax: float | None) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low = float(vmin) if vmin is not None else float(finite.min()) if finite.size else 0.0
    high = float(vmax) if vmax is not None else float(finite.max()) if finite.size else low
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"vmin and vmax must be finite, got {vmin} and {vmax}")
    if vmin is not None and vmax is not None and low > high:
        raise InputError(f"vmin must not be larger than vmax, got vmin {low:g} and vmax {high:g}")
    return low, max(low, high)


def overlay(
    image: str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor,
    anomaly_map: Map,
    *,
    alpha: float = 0.5,
    vmin: float | None = None,
    vmax: float | None = None,
    mask: Map | None = None,
    colorbar: bool = False,
) -> Image.Image:
    """The image with its map laid over it -> RGB PIL image of the image's size (wider with a colour bar).

    image: any one picture that fastspade reads. anomaly_map: (H, W) of the same size (see place_in_image).
    alpha: the map's weight, 0 to 1; where the map is NaN the image shows through. vmin, vmax: as in heatmap.
    mask: (H, W), non-zero where a defect is; its outline is drawn in green. colorbar: adds the scale on the right.
    """
    picture = as_rgb(image)
    values = _check_maps(anomaly_map, finite=False)
    size = (picture.height, picture.width)
    if values.shape != size:
        raise InputError(
            f"anomaly_map must have the image's size {size[0]}x{size[1]}, got {tuple(values.shape)}; use place_in_image"
        )
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must lie between 0 and 1, got {alpha}")
    low, high = _scale(values.cpu().numpy(), vmin, vmax)
    colors = heatmap(values, vmin=low, vmax=high).astype(np.float32)
    weight = np.where(np.isnan(values.cpu().numpy()), 0.0, alpha)[..., None].astype(np.float32)
    blended = np.asarray(picture, dtype=np.float32) * (1 - weight) + colors * weight
    blended = np.rint(blended).astype(np.uint8)
    if mask is not None:
        region = _to_tensor("mask", mask).cpu()
        if region.shape != size:
            raise InputError(f"mask must have the image's size {size[0]}x{size[1]}, got {tuple(region.shape)}")
        blended[_outline(region != 0, max(1, min(size) // 150)).numpy()] = (0, 255, 0)
    drawn = Image.fromarray(blended)
    return _with_colorbar(drawn, low, high) if colorbar else drawn


def _outline(region: torch.Tensor, thickness: int) -> torch.Tensor:
    """(H, W) bool: pixels of the region at most ``thickness`` from its outside; the image's edge is no outline."""
    outside = (~region).float()[None, None]
    grown = F.max_pool2d(outside, 2 * thickness + 1, stride=1, padding=thickness)[0, 0] > 0
    return grown & region


def colorbar(vmin: float, vmax: float, *, height: int = 256, width: int = 0) -> Image.Image:
    """A vertical scale on white, highest value on top, three labels -> RGB PIL image. width: of the bar (0: by height)."""
    low, high = _scale(np.empty(0), vmin, vmax)
    font, line = ImageFont.load_default(), 12
    labels = [f"{value:.3g}" for value in (high, (low + high) / 2, low)]
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    gap, bar = 4, width or max(8, height // 24)
    text = math.ceil(max(ruler.textlength(label, font=font) for label in labels))
    canvas = Image.new("RGB", (gap + bar + gap + text + gap, height), "white")
    ramp = np.linspace(255, 0, height).round().astype(np.uint8)
    canvas.paste(Image.fromarray(np.repeat(color_table()[ramp][:, None], bar, axis=1)), (gap, 0))
    draw = ImageDraw.Draw(canvas)
    for label, share in zip(labels, (0, 0.5, 1)):
        draw.text((gap + bar + gap, round(share * max(0, height - line))), label, fill="black", font=font)
    return canvas


def _with_colorbar(picture: Image.Image, low: float, high: float) -> Image.Image:
    """The picture with the scale at its right."""
    scale = colorbar(low, high, height=picture.height, width=max(8, picture.width // 24))
    canvas = Image.new("RGB", (picture.width + scale.width, picture.height), "white")
    canvas.paste(picture, (0, 0))
    canvas.paste(scale, (picture.width, 0))
    return canvas


def _to_tensor(argument: str, values: object) -> torch.Tensor:
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(np.ascontiguousarray(values))
    if not isinstance(values, torch.Tensor):
        raise DtypeError(f"{argument} must be a tensor or an array, got {type(values).__name__}")
    return values


def _check_maps(maps: object, *, finite: bool = True) -> torch.Tensor:
    """(H, W) or (B, H, W) -> float32 tensor; ``finite`` where NaN would spread to other pixels."""
    values = _to_tensor("maps", maps).detach()
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise InputError(f"maps must have shape (H, W) or (B, H, W), none of them 0; got {tuple(values.shape)}")
    values = values.float()
    if finite and not bool(values.isfinite().all()):
        raise InputError("maps must be finite, got NaN or infinity")
    return values
