"""Pictures of any kind -> batches that a backbone takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastspade._lazy import lazy

if TYPE_CHECKING:
    from fastspade.images.decode import as_rgb
    from fastspade.images.entry import Entry, ImageBatch, Images, Picture
    from fastspade.images.geometry import CropBox
    from fastspade.images.open import open_source
    from fastspade.images.safe_file import DEFAULT_MAX_PIXELS, SUFFIXES
    from fastspade.images.source import ImageSource
else:
    __getattr__ = lazy(
        "fastspade.images",
        {"as_rgb": "fastspade.images.decode", "CropBox": "fastspade.images.geometry", "open_source": "fastspade.images.open"}
        | dict.fromkeys(("DEFAULT_MAX_PIXELS", "SUFFIXES"), "fastspade.images.safe_file")
        | dict.fromkeys(("Entry", "ImageBatch", "Images", "Picture"), "fastspade.images.entry")
        | {"ImageSource": "fastspade.images.source"},
    )

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "SUFFIXES",
    "CropBox",
    "Entry",
    "ImageBatch",
    "ImageSource",
    "Images",
    "Picture",
    "as_rgb",
    "open_source",
]
