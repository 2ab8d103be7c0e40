"""The demo's data, made from photographs that scikit-image ships.

An object that is taken again and again: every picture is the photograph shifted, turned and lit a little differently, with
sensor noise of its own. And surfaces: crops of textures, split so that no test pixel is ever trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from fastspade.demo.defects import DEFECTS
from fastspade.errors import MissingDependencyError

OBJECTS = {"coffee": (220.0, 340.0, 320.0)}  # middle (y, x) and side of the square that is taken, in pixels of the photograph
CATEGORIES = ("coffee", "brick", "grass", "gravel")
SIDE = 160  # of a picture; of textures also in pixels of the photograph (512 x 512)
GAP = 16  # columns between the training part and the test part


@dataclass(frozen=True)
class TestImage:
    """picture: (SIDE, SIDE, 3) uint8. mask: (SIDE, SIDE) bool, empty where `defect` is "good"."""

    picture: np.ndarray
    mask: np.ndarray
    defect: str


@dataclass(frozen=True)
class Scene:
    """normal_at, test_at: of a texture, (top, left) of every crop in the photograph."""

    name: str
    normal: list[np.ndarray]
    test: list[TestImage]
    normal_at: list[tuple[int, int]]
    test_at: list[tuple[int, int]]


def photograph(name: str) -> np.ndarray:
    """One of scikit-image's photographs, (H, W, 3) uint8; they are part of its wheel."""
    try:
        from skimage import data
    except ImportError as error:
        raise MissingDependencyError('the demo needs scikit-image; install it with pip install "fastspade[demo]"') from error
    picture = np.asarray(getattr(data, name)())
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., :3]


def make_scene(name: str, seed: int, normal: int = 30, good: int = 4, each: int = 2) -> Scene:
    """`normal` training pictures, `good` untouched test pictures and `each` pictures with every kind of defect.

    Each picture gets its own small lighting change, as a camera would see.
    """
    whole = photograph(name)
    random = np.random.default_rng([seed, CATEGORIES.index(name)])
    border = whole.shape[1] - SIDE
    normal_at: list[tuple[int, int]] = []
    test_at: list[tuple[int, int]] = []

    def taken(test: bool) -> np.ndarray:
        if name in OBJECTS:
            picture = _taken_again(whole, *OBJECTS[name], random)
        else:
            left, right = (border, whole.shape[1]) if test else (0, border - GAP)
            y, x = int(random.integers(0, whole.shape[0] - SIDE + 1)), int(random.integers(left, right - SIDE + 1))
            (test_at if test else normal_at).append((y, x))
            picture = whole[y : y + SIDE, x : x + SIDE]
        return np.clip(np.rint(picture * random.uniform(0.96, 1.04)), 0, 255).astype(np.uint8)

    training = [taken(test=False) for _ in range(normal)]
    empty = np.zeros((SIDE, SIDE), dtype=bool)
    tests = [TestImage(taken(test=True), empty, "good") for _ in range(good)]
    for kind, damage in DEFECTS.items():
        for _ in range(each):
            picture, mask = damage(taken(test=True), random)
            tests.append(TestImage(picture, mask, kind))
    return Scene(name, training, tests, normal_at, test_at)


def _taken_again(whole: np.ndarray, y: float, x: float, side: float, random: np.random.Generator) -> np.ndarray:
    """A square of the photograph, (SIDE, SIDE, 3): up to 4 pixels off, turned by up to 3 degrees, with noise."""
    middle, turn = np.array([x, y]) + random.uniform(-4, 4, 2), np.deg2rad(random.uniform(-3, 3))
    across = np.array([np.cos(turn), np.sin(turn)]) * side / SIDE
    down = np.array([-across[1], across[0]])
    corner = middle - (across + down) * SIDE / 2
    coefficients = (across[0], down[0], corner[0], across[1], down[1], corner[1])
    # Read at twice the size and halved, so that nothing is aliased.
    large = tuple(value / 2 if i % 3 < 2 else value for i, value in enumerate(coefficients))
    picture = Image.fromarray(whole).transform((2 * SIDE, 2 * SIDE), Image.Transform.AFFINE, large, Image.Resampling.BICUBIC)
    halved = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    return halved + random.normal(0, 2, halved.shape)
