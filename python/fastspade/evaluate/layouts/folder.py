"""Plain folders: good/ and bad/, and where known masks/; optionally train/. One category, or one in every subfolder.

With train/, all of good/ is tested. Without it, every fifth image of good/ (sorted by name) is tested and the others are
the training images. bad/ may hold images, or a subfolder for each kind of defect. masks/ mirrors bad/: <stem>.png or
<stem>_mask.png. Without masks/ only image metrics are defined. Folders in train/, good/ and bad/<kind>/ are read, too.
"""

from __future__ import annotations

from pathlib import Path

from fastspade.evaluate.category import Category, Problems, TestImage, choose
from fastspade.evaluate.layouts.files import folders, images, list_images, with_masks

HELD_OUT = 5  # every fifth good image is tested where there is no train/


def read(root: Path, wanted: list[str], problems: Problems) -> list[Category]:
    if (root / "good").is_dir():
        places = {root.absolute().name: root}
    else:
        places = {name: root / name for name in folders(root) if (root / name / "good").is_dir()}
    if not places:
        problems.add("neither it nor a folder in it holds good/ and bad/")
    return [_category(name, places[name], problems) for name in choose(list(places), wanted, problems)]


def _category(name: str, place: Path, problems: Problems) -> Category:
    good = images(place / "good", problems)
    if (place / "train").is_dir():
        train = images(place / "train", problems)
    else:
        train = [path for i, path in enumerate(good) if i % HELD_OUT]
        good = good[::HELD_OUT]
        if not train:
            problems.add(f"folder {place / 'good'} needs at least 2 images, or a folder train/ beside it")
    return Category(name, tuple(train), (*(TestImage(path, "good") for path in good), *_bad(place, problems)))


def _bad(place: Path, problems: Problems) -> list[TestImage]:
    bad = place / "bad"
    if not bad.is_dir():
        problems.add(f"folder {bad} is missing")
        return []
    kinds = [(kind, bad / kind, place / "masks" / kind) for kind in folders(bad)]
    if list_images(bad, problems, deep=False):
        kinds.insert(0, ("bad", bad, place / "masks"))
    if not kinds:
        problems.add(f"folder {bad} holds no images")
    found = []
    for kind, pictures, masks in kinds:
        if kind == "good":
            problems.add(f"{pictures} is a defect named good; rename it")
        deep = pictures != bad  # the folders in bad/ are kinds of their own
        listed = images(pictures, problems) if deep else list_images(bad, problems, deep=False)
        if (place / "masks").is_dir():
            found += with_masks(listed, kind, pictures, masks, ("", "_mask"), problems, deep=deep)
        else:
            found += [TestImage(path, kind) for path in listed]
    return found
