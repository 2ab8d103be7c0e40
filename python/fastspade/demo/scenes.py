"""The demo's data: crops of real photographs that scikit-image ships, split so that no test pixel is ever trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastspade.demo.defects import DEFECTS
from fastspade.errors import MissingDependencyError

CATEGORIES = ("brick", "grass", "gravel")
SIDE = 160  # of a crop, in pixels of the photograph (512 x 512)
GAP = 16  # columns between the training part and the test part


@dataclass(frozen=True)
class TestImage:
    """picture: (SIDE, SIDE, 3) uint8. mask: (SIDE, SIDE) bool, empty where `defect` is "good"."""

    picture: np.ndarray
    mask: np.ndarray
    defect: str


@dataclass(frozen=True)
class Scene:
    """normal_at, test_at: (top, left) of every crop in the photograph."""

    name: str
    normal: list[np.ndarray]
    test: list[TestImage]
    normal_at: list[tuple[int, int]]
    test_at: list[tuple[int, int]]


def photograph(name: str) -> np.ndarray:
    """One of scikit-image's texture photographs, (512, 512, 3) uint8; they are part of its wheel."""
    try:
        from skimage import data
    except ImportError as error:
        raise MissingDependencyError('the demo needs scikit-image; install it with pip install "fastspade[demo]"') from error
    picture = np.asarray(getattr(data, name)())
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., :3]


def make_scene(name: str, seed: int, normal: int = 60, good: int = 4, each: int = 2) -> Scene:
    """`normal` training crops from the left of the photograph; from its right, `good` untouched test crops and `each`
    crops with every kind of defect. Each crop gets its own small lighting change, as a camera would see."""
    whole = photograph(name)
    random = np.random.default_rng([seed, CATEGORIES.index(name)])
    border = whole.shape[1] - SIDE

    def crop(left: int, right: int, places: list[tuple[int, int]]) -> np.ndarray:
        y = int(random.integers(0, whole.shape[0] - SIDE + 1))
        x = int(random.integers(left, right - SIDE + 1))
        places.append((y, x))
        lit = whole[y : y + SIDE, x : x + SIDE] * random.uniform(0.96, 1.04)
        return np.clip(np.rint(lit), 0, 255).astype(np.uint8)

    normal_at: list[tuple[int, int]] = []
    test_at: list[tuple[int, int]] = []
    training = [crop(0, border - GAP, normal_at) for _ in range(normal)]
    empty = np.zeros((SIDE, SIDE), dtype=bool)
    test = [TestImage(crop(border, whole.shape[1], test_at), empty, "good") for _ in range(good)]
    for kind, damage in DEFECTS.items():
        for _ in range(each):
            picture, mask = damage(crop(border, whole.shape[1], test_at), random)
            test.append(TestImage(picture, mask, kind))
    return Scene(name, training, test, normal_at, test_at)

