"""Finding, checking and reading a labelled dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastspade.errors import ImageReadError, InputError, MissingFileError
from fastspade.evaluate.category import Category, Problems
from fastspade.evaluate.layouts import btad, folder, mvtec, visa
from fastspade.images.decode import upright
from fastspade.images.safe_file import DEFAULT_MAX_PIXELS, opened_image

_READERS = {"mvtec": mvtec.read, "visa": visa.read, "btad": btad.read, "folder": folder.read}
LAYOUTS = tuple(_READERS)


def read_dataset(
    root: str | Path,
    layout: str,
    categories: Sequence[str] | None = None,
    *,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    unique_stems: bool = False,
) -> list[Category]:
    """Find and check a dataset; every image and mask is decoded once, so that none is found broken after hours of work.

    root: its folder. layout: "mvtec", "visa", "btad" or "folder". categories: names to read; None reads all.
    max_pixels: of images and masks, as for Spade. skip_bad: leave unreadable images, and images with unreadable masks, out;
    they are in `Category.skipped`. unique_stems: no two test images of one kind may have the same stem (their maps' names).

    Raises MissingFileError where root is no folder, and InputError where the layout does not hold, naming every file or
    folder that is wrong (the first ten).
    """
    if layout not in _READERS:
        raise InputError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}, got {layout!r}")
    root = Path(root)
    if not root.is_dir():
        raise MissingFileError(f"dataset: no folder at {root}")
    problems = Problems(f"dataset: {root} is not in the {layout} layout")
    found = _READERS[layout](root, list(categories or []), problems)
    problems.stop()
    if unique_stems:
        _check_stems(found, problems)
    found = check_files(found, problems, max_pixels, skip_bad)
    problems.stop()
    return found


def check_files(
    categories: Sequence[Category], problems: Problems, max_pixels: int | None = DEFAULT_MAX_PIXELS, skip_bad: bool = False
) -> list[Category]:
    """Every image and mask can be read, and every mask is lossless and has its image's size. Returns the categories without
    what skip_bad leaves out."""
    checked = []
    for category in categories:
        skipped: list[tuple[str, ImageReadError]] = []

        def size_of(path: Path, skipped: list[tuple[str, ImageReadError]] = skipped) -> tuple[int, int] | None:
            try:
                with opened_image(path, max_pixels) as image:
                    width, height = upright(image).size
            except ImageReadError as error:
                if skip_bad:
                    skipped.append((str(path), error))
                else:
                    problems.add(str(error))
                return None
            return height, width

        train = [path for path in category.train if size_of(path) or not skip_bad]
        test = []
        for image in category.test:
            size = size_of(image.path)
            mask_size = None if image.mask is None else size_of(image.mask)
            if image.mask is not None and image.mask.suffix.lower() in (".jpg", ".jpeg"):
                problems.add(f"mask {image.mask} is a JPEG, whose compression blurs masks; needs PNG, BMP or TIFF")
            if size and mask_size and size != mask_size:
                problems.add(
                    f"mask {image.mask} is {mask_size[0]}x{mask_size[1]} (height x width), its image {image.path} is "
                    f"{size[0]}x{size[1]}"
                )
            if not skip_bad or (size and (image.mask is None or mask_size)):
                test.append(image)
        if skipped and not (train and test):
            problems.add(f"{category.name}: without its unreadable images nothing is left to {'test' if train else 'fit on'}")
        checked.append(replace(category, train=tuple(train), test=tuple(test), skipped=tuple(skipped)))
    return checked


def _check_stems(categories: Sequence[Category], problems: Problems) -> None:
    for category in categories:
        known: dict[tuple[str, str], Path] = {}
        for image in category.test:
            other = known.setdefault((image.kind, image.path.stem), image.path)
            if other != image.path:
                problems.add(f"save-maps: {other} and {image.path} have one stem, so their maps would have one name")


def load_mask(path: Path, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """(H, W) bool: true where any channel but alpha is not 0. Raises ImageReadError naming the file."""
    with opened_image(path, max_pixels) as image:
        values = np.asarray(upright(image))
    marked: np.ndarray = values != 0
    if values.ndim == 3:
        marked = np.any(marked[..., : 1 if values.shape[2] == 2 else 3], axis=2)
    return marked
