"""Seeded synthetic defects: each takes an RGB picture and returns the damaged picture and the mask of what it changed.

All positions, sizes and strengths are drawn from the generator given, so a seed fixes every picture. Lengths are
fractions of the picture's side, so that a defect looks the same at any size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Defect = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def _blend(picture: np.ndarray, other: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mix `other` over `picture` by alpha (H, W) in [0, 1]; the mask is where the mixture is visible."""
    mixed = picture * (1 - alpha[..., None]) + other * alpha[..., None]
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8), alpha > 0.25


def _drawn(side: int, draw: Callable[[ImageDraw.ImageDraw], None], blur: float) -> np.ndarray:
    """A shape drawn at full opacity, softened by a Gaussian of `blur` pixels, as (side, side) in [0, 1]."""
    canvas = Image.new("L", (side, side), 0)
    draw(ImageDraw.Draw(canvas))
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float64) / 255


def scratch(picture: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A thin bright or dark line along a quadratic curve, 0.3 to 0.6 of the side long."""
    side = picture.shape[0]
    start = random.uniform(0.2, 0.8, 2) * side
    angle, length = random.uniform(0, 2 * np.pi), random.uniform(0.3, 0.6) * side
    end = np.clip(start + length * np.array([np.cos(angle), np.sin(angle)]), 0.05 * side, 0.95 * side)
    bend = (start + end) / 2 + random.normal(0, 0.08 * side, 2)
    t = np.linspace(0, 1, 60)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    width = int(round(random.uniform(0.012, 0.022) * side))
    alpha = _drawn(side, lambda d: d.line([tuple(p) for p in curve], fill=255, width=width, joint="curve"), 0.6)
    tone = 245.0 if picture.mean() < 128 or random.random() < 0.5 else 15.0
    return _blend(picture, np.full(picture.shape, tone), 0.85 * alpha)


def blob(picture: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A rotated ellipse of smooth, slightly tinted matter, 0.07 to 0.14 of the side in radius."""
    side = picture.shape[0]
    centre, radii, turn = random.uniform(0.2, 0.8, 2) * side, random.uniform(0.07, 0.14, 2) * side, random.uniform(0, np.pi)
    t = np.linspace(0, 2 * np.pi, 80)
    x = centre[0] + radii[0] * np.cos(t) * np.cos(turn) - radii[1] * np.sin(t) * np.sin(turn)
    y = centre[1] + radii[0] * np.cos(t) * np.sin(turn) + radii[1] * np.sin(t) * np.cos(turn)
    alpha = _drawn(side, lambda d: d.polygon(list(zip(x, y, strict=True)), fill=255), 0.01 * side)
    matter = picture.mean(axis=(0, 1)) * random.uniform(0.5, 0.8) * random.uniform(0.85, 1.15, 3)
    return _blend(picture, np.broadcast_to(matter, picture.shape), 0.9 * alpha)


def cut_paste(picture: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A square of the same picture, turned by 30 to 60 degrees, mirrored, a little brighter or darker, pasted elsewhere."""
    side = picture.shape[0]
    size = int(random.uniform(0.18, 0.28) * side)
    source = random.integers(0, side - size + 1, 2)
    target = random.integers(int(0.05 * side), int(0.95 * side) - size + 1, 2)
    turned = Image.fromarray(picture[::-1]).rotate(random.uniform(30, 60), resample=Image.Resampling.BICUBIC, expand=False)
    patch = np.asarray(turned, dtype=np.float64)
    middle = np.clip(source, side // 4, 3 * side // 4 - size) if side // 2 > size else source
    patch = patch[middle[0] : middle[0] + size, middle[1] : middle[1] + size] * random.choice([0.75, 1.3])
    other = picture.astype(np.float64)
    other[target[0] : target[0] + size, target[1] : target[1] + size] = patch
    alpha = np.zeros((side, side))
    alpha[target[0] : target[0] + size, target[1] : target[1] + size] = 1.0
    return _blend(picture, other, alpha)


def stain(picture: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An irregular patch soaked darker and browner; the texture shows through."""
    side = picture.shape[0]
    noise = Image.fromarray((random.random((9, 9)) * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    y, x = np.mgrid[:side, :side] / side
    centre, radius = random.uniform(0.25, 0.75, 2), random.uniform(0.14, 0.2)
    distance = np.hypot(y - centre[0], x - centre[1]) / radius
    inside = distance + 0.9 * (np.asarray(noise, dtype=np.float64) / 255 - 0.5) < 1
    soft = Image.fromarray((inside * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.008 * side))
    soaked = picture * np.array([0.62, 0.5, 0.36])
    return _blend(picture, soaked, np.asarray(soft, dtype=np.float64) / 255)


DEFECTS: dict[str, Defect] = {"scratch": scratch, "blob": blob, "cut-paste": cut_paste, "stain": stain}
