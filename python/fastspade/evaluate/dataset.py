"""Finding, checking and reading a labelled dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fastspade.errors import InputError, MissingFileError
from fastspade.evaluate.category import Category, Problems
from fastspade.evaluate.layouts import btad, folder, mvtec, visa
from fastspade.images.decode import upright
from fastspade.images.safe_file import opened_image

_READERS = {"mvtec": mvtec.read, "visa": visa.read, "btad": btad.read, "folder": folder.read}
LAYOUTS = tuple(_READERS)


def read_dataset(root: str | Path, layout: str, categories: Sequence[str] | None = None) -> list[Category]:
    """Find and check a dataset; nothing is decoded but file headers.

    root: its folder. layout: "mvtec", "visa", "btad" or "folder". categories: names to read; None reads all.

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
    check_files(found, problems)
    problems.stop()
    return found


def check_files(categories: Sequence[Category], problems: Problems) -> None:
    """Every image opens, and every mask is lossless and has its image's size."""
    for category in categories:
        for path in category.train:
            _size(path, problems)
        for image in category.test:
            size = _size(image.path, problems)
            if image.mask is None:
                continue
            if image.mask.suffix.lower() in (".jpg", ".jpeg"):
                problems.add(f"mask {image.mask} is a JPEG, whose compression blurs masks; needs PNG, BMP or TIFF")
            mask_size = _size(image.mask, problems)
            if size and mask_size and size != mask_size:
                problems.add(
                    f"mask {image.mask} is {mask_size[0]}x{mask_size[1]} (height x width), its image {image.path} is "
                    f"{size[0]}x{size[1]}"
                )


def _size(path: Path, problems: Problems) -> tuple[int, int] | None:
    """(height, width) upright, from the header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 swap the axes
    except Exception as error:  # Pillow's decoders raise many kinds
        problems.add(f"cannot read {path} ({type(error).__name__})")
        return None
    return (width, height) if turned else (height, width)


def load_mask(path: Path) -> np.ndarray:
    """(H, W) bool: true where any channel but alpha is not 0. Raises ImageReadError naming the file."""
    with opened_image(path) as image:
        values = np.asarray(upright(image))
    marked: np.ndarray = values != 0
    if values.ndim == 3:
        marked = np.any(marked[..., : 1 if values.shape[2] == 2 else 3], axis=2)
    return marked
