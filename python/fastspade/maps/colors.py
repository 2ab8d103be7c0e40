"""The colours of anomaly maps: a perceptually uniform table, and maps as coloured pixels."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from fastspade.errors import InputError
from fastspade.maps.process import Map, check_maps


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
    values = check_maps(maps, finite=False).cpu().numpy()
    low, high = scale_of(values, vmin, vmax)
    known = np.isfinite(values)
    unit = (np.where(known, values, low).astype(np.float64) - low) / ((high - low) or 1.0)
    colors: np.ndarray = color_table()[np.rint(unit.clip(0, 1) * 255).astype(np.uint8)]
    colors[np.isnan(values)] = 128
    colors[np.isposinf(values)] = color_table()[-1]
    return colors


def scale_of(values: np.ndarray, vmin: float | None, vmax: float | None) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low = float(vmin) if vmin is not None else float(finite.min()) if finite.size else 0.0
    high = float(vmax) if vmax is not None else float(finite.max()) if finite.size else low
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"vmin and vmax must be finite, got {vmin} and {vmax}")
    if vmin is not None and vmax is not None and low > high:
        raise InputError(f"vmin must not be larger than vmax, got vmin {low:g} and vmax {high:g}")
    return low, max(low, high)
