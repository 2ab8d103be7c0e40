"""What the layouts share: listing folders, and matching masks to images by name."""

from __future__ import annotations

from pathlib import Path

from fastspade.evaluate.category import Problems, TestImage
from fastspade.images import SUFFIXES


def folders(place: Path) -> list[str]:
    """Names of the visible subfolders, sorted."""
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def images(place: Path, problems: Problems) -> list[Path]:
    """The image files directly in a folder, sorted; a missing or empty folder is a problem."""
    if not place.is_dir():
        problems.add(f"folder {place} is missing")
        return []
    found = list_images(place)
    if not found:
        problems.add(f"folder {place} holds no images")
    return found


def list_images(place: Path) -> list[Path]:
    return sorted(
        entry
        for entry in place.iterdir()
        if entry.is_file() and entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
    )


def with_masks(pictures: list[Path], kind: str, masks: Path, suffixes: tuple[str, ...], problems: Problems) -> list[TestImage]:
    """Test images of one defect kind, each with the mask in folder `masks` named <stem><suffix>.<any image type>.

    An image without mask, a mask without image and two masks of one name are problems.
    """
    if not pictures:
        return []
    if not masks.is_dir():
        problems.add(f"folder {masks} is missing (masks of {pictures[0].parent})")
        return []
    by_stem: dict[str, Path] = {}
    for path in list_images(masks):
        if path.stem in by_stem:
            problems.add(f"masks {by_stem[path.stem]} and {path} have one name")
        by_stem[path.stem] = path
    found = []
    for picture in pictures:
        mask = next((by_stem.pop(picture.stem + suffix) for suffix in suffixes if picture.stem + suffix in by_stem), None)
        if mask is None:
            problems.add(f"{picture} has no mask {masks / (picture.stem + suffixes[0] + '.png')}")
        found.append(TestImage(picture, kind, mask))
    for orphan in by_stem.values():
        problems.add(f"mask {orphan} belongs to no image in {pictures[0].parent}")
    return found
