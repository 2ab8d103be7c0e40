"""Write made datasets in MVTec's layout: aligned objects, loose and elongated parts, textures; with strong and weak defects.

    python benchmarks/made_sets.py OUT [--only NAME ...] [--seed 0] [--normal 60] [--good 24] [--each 4]     (needs ".[demo]")
    python benchmarks/accuracy.py OUT --out FILE
    fastspade eval OUT --layout mvtec --backbone efficientnet_lite0

Coffee, brick, grass and gravel are the demo's, from scikit-image's photographs; the others are drawn, every picture anew. `each`
test pictures have every kind of the demo's defects at full strength, as many at a third of it (kinds named weak-...).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fastspade.demo.defects import DEFECTS
from fastspade.demo.scenes import CATEGORIES, SIDE, make_scene

WEAK = 0.35
LONG = 3  # sides of an elongated part


def _lit(picture: np.ndarray, random: np.random.Generator, noise: float = 3.0) -> np.ndarray:
    """(H, W, 3) uint8: a little brighter or darker, unevenly, with sensor noise."""
    slope = np.linspace(-1, 1, picture.shape[1])[None, :, None] * random.uniform(-0.05, 0.05)
    lit = picture * (random.uniform(0.94, 1.06) + slope) + random.normal(0, noise, picture.shape)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def _grain(size: tuple[int, int], cell: int, random: np.random.Generator) -> np.ndarray:
    """(H, W) in [-1, 1]: smooth noise, its spots `cell` pixels wide."""
    small = random.integers(0, 256, (size[0] // cell + 2, size[1] // cell + 2)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC), dtype=np.float64) / 127.5 - 1


def _turned(picture: Image.Image, random: np.random.Generator, degrees: float, pixels: float) -> Image.Image:
    """Turned and shifted by up to so much."""
    shift = tuple(random.uniform(-pixels, pixels, 2))
    return picture.rotate(random.uniform(-degrees, degrees), Image.Resampling.BICUBIC, translate=shift, fillcolor=(70, 72, 76))


def nut(random: np.random.Generator) -> np.ndarray:
    """A hexagonal nut in a loose pose on a rough table."""
    picture, middle = Image.new("RGB", (SIDE, SIDE), (70, 72, 76)), SIDE / 2
    draw = ImageDraw.Draw(picture)
    draw.regular_polygon((middle, middle, 0.36 * SIDE), 6, fill=(168, 170, 172), outline=(210, 212, 214))
    for radius, tone in ((0.24, 150), (0.17, 110), (0.15, 40)):
        draw.ellipse(
            [middle - radius * SIDE, middle - radius * SIDE, middle + radius * SIDE, middle + radius * SIDE], (tone,) * 3
        )
    loose = _turned(picture.filter(ImageFilter.GaussianBlur(0.8)), random, 180, 0.08 * SIDE)
    return _lit(np.asarray(loose) + 9 * _grain((SIDE, SIDE), 5, random)[..., None], random)


def weave(random: np.random.Generator) -> np.ndarray:
    """Threads over and under each other, of uneven width, at any phase."""
    y, x = np.mgrid[:SIDE, :SIDE] + random.uniform(0, 40, 2)[:, None, None]
    x, y = x + 1.5 * _grain((SIDE, SIDE), 20, random), y + 1.5 * _grain((SIDE, SIDE), 20, random)
    over = (x // 10 + y // 10) % 2 == 0
    ridge = np.where(over, np.abs(np.sin(np.pi * x / 10)), np.abs(np.sin(np.pi * y / 10)))
    tone = 60 + 110 * ridge**0.7 + 12 * _grain((SIDE, SIDE), 3, random)
    return _lit(tone[..., None] * np.array([1.0, 0.97, 0.88]), random)


def casting(random: np.random.Generator) -> np.ndarray:
    """A long cast part with ribs and bores, roughly aligned, its skin grainy."""
    height, width = SIDE // 2, LONG * SIDE // 2
    picture = Image.new("RGB", (width, height), (70, 72, 76))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle([6, 10, width - 7, height - 11], 14, fill=(140, 138, 134))
    for i in range(1, 6):
        at = i * width / 6
        draw.rectangle([at - 3, 10, at + 3, height - 11], fill=(176, 174, 170))
        draw.ellipse([at - 30, height / 2 - 9, at - 12, height / 2 + 9], fill=(52, 52, 54), outline=(190, 188, 184))
    moved = np.asarray(_turned(picture.filter(ImageFilter.GaussianBlur(0.8)), random, 1.5, 2), dtype=np.float64)
    skin = 14 * _grain((height, width), 4, random) + 8 * _grain((height, width), 25, random)
    return _lit(moved + skin[..., None], random)


def solar(random: np.random.Generator) -> np.ndarray:
    """A polycrystalline cell: fingers and bus bars always at the same place, crystals different in each."""
    crystals = random.uniform(0, SIDE, (45, 2))
    y, x = np.mgrid[:SIDE, :SIDE]
    nearest = ((y[..., None] - crystals[:, 0]) ** 2 + (x[..., None] - crystals[:, 1]) ** 2).argmin(-1)
    tone = random.uniform(0.75, 1.2, len(crystals))[nearest][..., None] * np.array([52.0, 66.0, 110.0])
    shift = random.integers(-2, 3)
    tone[(y + shift) % 8 == 0] = tone[(y + shift) % 8 == 0] * 0.6 + 60
    for at in (SIDE // 4, 3 * SIDE // 4):
        tone[:, at + shift : at + shift + 5] = 190
    return _lit(tone, random)


SETS: dict[str, Callable[[np.random.Generator], np.ndarray] | None] = {
    "nut": nut, "weave": weave, "casting": casting, "solar": solar, **dict.fromkeys(CATEGORIES),
}  # fmt: skip


def damaged(picture: np.ndarray, kind: str, strength: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A defect in a square of the picture; and the mask."""
    side = min(picture.shape[:2])
    top, left = (int(random.integers(0, extent - side + 1)) for extent in picture.shape[:2])
    place = slice(top, top + side), slice(left, left + side)
    found, inside = DEFECTS[kind](picture[place], random)
    other, mask = picture.astype(np.float64), np.zeros(picture.shape[:2], dtype=bool)
    other[place] += strength * (found - other[place])
    mask[place] = inside
    return np.rint(other).astype(np.uint8), mask


def write(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--normal", type=int, default=60, help="training pictures of every set")
    parser.add_argument("--good", type=int, default=24, help="good test pictures")
    parser.add_argument("--each", type=int, default=4, help="test pictures of every kind and strength of defect")
    arguments = parser.parse_args()
    strengths = {"": 1.0, "weak-": WEAK}
    for name in arguments.only:
        random = np.random.default_rng([arguments.seed, list(SETS).index(name)])
        make, count = SETS[name], arguments.good + len(strengths) * len(DEFECTS) * arguments.each
        if make is None:
            scene = make_scene(name, arguments.seed, normal=arguments.normal, good=count, each=0)
            normal, test = scene.normal, [image.picture for image in scene.test]
        else:
            normal, test = [make(random) for _ in range(arguments.normal)], [make(random) for _ in range(count)]
        for i, picture in enumerate(normal):
            write(picture, arguments.out / name / "train" / "good" / f"{i:03d}.png")
        for i, picture in enumerate(test[: arguments.good]):
            write(picture, arguments.out / name / "test" / "good" / f"{i:03d}.png")
        rest = iter(test[arguments.good :])
        for prefix, strength in strengths.items():
            for kind in DEFECTS:
                for i in range(arguments.each):
                    picture, mask = damaged(next(rest), kind, strength, random)
                    write(picture, arguments.out / name / "test" / (prefix + kind) / f"{i:03d}.png")
                    write(
                        mask.astype(np.uint8) * 255, arguments.out / name / "ground_truth" / (prefix + kind) / f"{i:03d}_mask.png"
                    )


if __name__ == "__main__":
    main()
