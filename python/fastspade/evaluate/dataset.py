"""Finding, checking and reading a labelled dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fastspade.errors import FastspadeError, InputError, MissingFileError
from fastspade.evaluate.category import Category, Problems
from fastspade.evaluate.layouts import btad, folder, mvtec, visa
from fastspade.files.home import user_path
from fastspade.images.decode import read_file
from fastspade.images.further import first_alone, further_pictures
from fastspade.images.masks import load_mask
from fastspade.images.safe_file import DEFAULT_MAX_PIXELS

__all__ = ["LAYOUTS", "check_files", "load_mask", "read_dataset"]

Skipped = list[tuple[str, FastspadeError]]
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
    root = user_path(root)
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
        skipped: Skipped = []
        left_out: Skipped = []  # of files of which the first picture is read

        def size_of(path: Path, mask: bool, skipped: Skipped = skipped, left_out: Skipped = left_out) -> tuple[int, int] | None:
            try:
                if not mask:
                    with further_pictures() as further:
                        size = _image_size(path, max_pixels)
                    left_out.extend(first_alone(str(path), count) for count in further)
                    return size
                height, width = load_mask(path, max_pixels).shape
            except FastspadeError as error:
                if skip_bad:
                    skipped.append((str(path), error))
                else:
                    problems.add(str(error))
                return None
            return height, width

        train = [path for path in category.train if size_of(path, mask=False) or not skip_bad]
        test = []
        for image in category.test:
            size = size_of(image.path, mask=False)
            mask_size = None if image.mask is None else size_of(image.mask, mask=True)
            if size and mask_size and size != mask_size:
                problems.add(
                    f"mask {image.mask} is {mask_size[0]}x{mask_size[1]} (height x width), its image {image.path} is "
                    f"{size[0]}x{size[1]}"
                )
            if not skip_bad or (size and (image.mask is None or mask_size)):
                test.append(image)
        if skipped and not (train and test):
            problems.add(f"{category.name}: without its unreadable images nothing is left to {'test' if train else 'fit on'}")
        checked.append(replace(category, train=tuple(train), test=tuple(test), skipped=(*skipped, *left_out)))
    return checked


def _image_size(path: Path, max_pixels: int | None) -> tuple[int, int]:
    """(height, width) upright, of a file that was decoded whole."""
    decoded = read_file(path, max_pixels)
    if isinstance(decoded, torch.Tensor):
        return decoded.shape[1], decoded.shape[2]
    return decoded.size[1], decoded.size[0]


def _check_stems(categories: Sequence[Category], problems: Problems) -> None:
    for category in categories:
        known: dict[tuple[str, str], Path] = {}
        for image in category.test:
            other = known.setdefault((image.kind, image.path.stem), image.path)
            if other != image.path:
                problems.add(f"save-maps: {other} and {image.path} have one stem, so their maps would have one name")
