"""What the layouts share: listing folders, and matching masks to images by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fastspade.errors import FastspadeError
from fastspade.evaluate.category import Category, Problems, TestImage
from fastspade.images.paths import Found, in_folder


def folders(place: Path) -> list[str]:
    """Names of the visible subfolders, sorted."""
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def images(place: Path, problems: Problems) -> list[Path]:
    """The image files in a folder and the folders in it, as `fit` and `score` find them; a missing or empty one is a problem."""
    if not place.is_dir():
        problems.add(f"folder {place} is missing")
        return []
    found = list_images(place, problems)
    if not found:
        problems.add(f"folder {place} holds no images")
    return found


def list_images(place: Path, problems: Problems, *, deep: bool = True) -> list[Path]:
    found = in_folder(place, deep=deep)
    for _, error in found.bad:
        problems.add(str(error))
    return found.files


def with_masks(
    pictures: list[Path], kind: str, place: Path, masks: Path, suffixes: tuple[str, ...], problems: Problems, *, deep: bool = True
) -> list[TestImage]:
    """Test images of one defect kind, in folder `place`, each with the mask <stem><suffix>.<any image type> in the same place of
    folder `masks`.

    An image without mask, a mask without image and two masks of one name are problems. deep: as of `list_images`.
    """
    if not pictures:
        return []
    if not masks.is_dir():
        problems.add(f"folder {masks} is missing (masks of {place})")
        return []
    by_name: dict[Path, Path] = {}
    for path in list_images(masks, problems, deep=deep):
        name = path.relative_to(masks).with_suffix("")
        if name in by_name:
            problems.add(f"masks {by_name[name]} and {path} have one name")
        by_name[name] = path
    found = []
    for picture in pictures:
        name = picture.relative_to(place).with_suffix("")
        names = [name.with_name(name.name + suffix) for suffix in suffixes]
        mask = next((by_name.pop(one) for one in names if one in by_name), None)
        if mask is None:
            problems.add(f"{picture} has no mask {masks / names[0]}.png")
        found.append(TestImage(picture, kind, mask))
    for orphan in by_name.values():
        problems.add(f"mask {orphan} belongs to no image in {place}")
    return found


def left_out(root: Path, categories: Sequence[Category]) -> list[tuple[str, FastspadeError]]:
    """(name, LeftOutError) of every file in the dataset, or in these categories' folders, that is no image or mask of theirs."""
    places = [root / category.name for category in categories]
    places = places if all(place.is_dir() for place in places) else [root]
    tests = [test for one in categories for test in one.test]
    read = [path for one in categories for path in one.train] + [path for one in tests for path in (one.path, one.mask) if path]
    used = set(map(_itself, read))
    found = Found()
    for place in places:
        here = in_folder(place)
        found.left_out += here.left_out
        for path in here.files:
            if _itself(path) not in used:
                found.leave_out(path, "has no place in the layout")
    return found.left_out


def _itself(path: Path) -> tuple[str, str]:
    """The file, whatever links lead to its folder."""
    return (os.path.realpath(path.parent), path.name)
