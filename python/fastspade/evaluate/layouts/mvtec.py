"""MVTec AD: <category>/train/good, <category>/test/<kind>, <category>/ground_truth/<kind>/<stem>_mask.png."""

from __future__ import annotations

from pathlib import Path

from fastspade.evaluate.category import Category, Problems, TestImage, choose
from fastspade.evaluate.layouts.files import folders, images, with_masks


def read(root: Path, wanted: list[str], problems: Problems) -> list[Category]:
    if (root / "train").is_dir() and (root / "test").is_dir():
        problems.add(f"it is one category; give its parent folder {root.absolute().parent} and --category {root.absolute().name}")
        return []
    known = [name for name in folders(root) if (root / name / "train").is_dir() or (root / name / "test").is_dir()]
    if not known:
        problems.add("no folder in it holds train/ and test/")
    return [_category(root / name, problems) for name in choose(known, wanted, problems)]


def _category(place: Path, problems: Problems) -> Category:
    train = images(place / "train" / "good", problems)
    test: list[TestImage] = [TestImage(path, "good") for path in images(place / "test" / "good", problems)]
    kinds = [kind for kind in folders(place / "test") if kind != "good"] if (place / "test").is_dir() else []
    for kind in kinds:
        pictures = images(place / "test" / kind, problems)
        test += with_masks(pictures, kind, place / "test" / kind, place / "ground_truth" / kind, ("_mask", ""), problems)
    if not kinds:
        problems.add(f"folder {place / 'test'} holds no defect folder beside good/")
    return Category(place.name, tuple(train), tuple(test))
