"""BTAD: <category>/train/ok, <category>/test/ok, <category>/test/ko, <category>/ground_truth/ko/<stem>.<type>."""

from __future__ import annotations

from pathlib import Path

from fastspade.evaluate.category import Category, Problems, TestImage, choose
from fastspade.evaluate.layouts.files import folders, images, with_masks


def read(root: Path, wanted: list[str], problems: Problems) -> list[Category]:
    known = [name for name in folders(root) if (root / name / "train").is_dir() or (root / name / "test").is_dir()]
    if not known:
        problems.add("no folder in it holds train/ and test/")
    found = []
    for name in choose(known, wanted, problems):
        place = root / name
        train = images(place / "train" / "ok", problems)
        good = [TestImage(path, "good") for path in images(place / "test" / "ok", problems)]
        bad = images(place / "test" / "ko", problems)
        test = good + with_masks(bad, "ko", place / "test" / "ko", place / "ground_truth" / "ko", ("", "_mask"), problems)
        found.append(Category(name, tuple(train), tuple(test)))
    return found
