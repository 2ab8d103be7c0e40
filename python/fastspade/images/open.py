"""Image sources: paths, folders, globs, PIL images, arrays, tensors and loaders -> prepared batches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from PIL import ImageFile

from fastspade import checks
from fastspade.errors import DtypeError, InputError
from fastspade.images.entry import Images
from fastspade.images.geometry import Fitting
from fastspade.images.items import Opened, Opener, Stream, hint, listed, yields_items
from fastspade.images.region import Masks
from fastspade.images.safe_file import DEFAULT_MAX_PIXELS
from fastspade.images.sides import check_crop, optional_pixels, pixels_or_whole
from fastspade.images.source import ImageSource
from fastspade.images.views import Tiling, Turn


def open_source(
    images: Images,
    *,
    resize: int | tuple[int, int] | str | None = 256,
    crop: int | tuple[int, int] | None = 224,
    fitting: Fitting = Fitting(),
    tiling: Tiling | None = None,
    turns: Sequence[Turn] = (),
    masks: Masks | None = None,
    batch_size: int = 16,
    skip_bad: bool = False,
    num_workers: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    argument: str = "images",
) -> ImageSource:
    """Open pictures of any supported kind as an iterable of ImageBatch; nothing is decoded before iteration.

    images: a file, a folder (searched recursively, links followed, sorted; hidden files and those of other types are left out and
        listed in ImageSource.skipped), a glob pattern ("**" goes in depth); a PIL image; a numpy array H x W x 3 uint8 (also
        gray, RGBA, uint16, float in [0, 1], or a stack N x H x W x 3 or N x H x W); a tensor (C, H, W) or (N, C, H, W), C 1, 3
        or 4, uint8, uint16 or float in [0, 1]; a list, set, Series, generator, DataLoader or anything else that yields those,
        lists of those, or samples (picture, label...). What a generator yields is copied as it is taken.
    resize: the shorter side in pixels, (height, width), or "whole": the pictures' median aspect ratio at the size that
        ``fitting`` asks for. crop: then the central crop x crop, or (height, width), is cut out (SPADE, arXiv 2005.02357:
        256 and 224). None leaves a step out. With crop=None all pictures get one size, of their median aspect ratio where
        resize is one number; those of another aspect ratio are distorted, of which a warning tells once. This holds for
        tensors and loaders too.
    tiling: pictures are cut into tiles, which come in place of them; resize="whole" then leaves them their size. turns: every
        picture is followed by itself turned by so many degrees or mirrored. masks: the region of interest of each.
    batch_size: pictures per batch. num_workers: decoding threads; 0 decodes in the calling thread, None uses 2.
    skip_bad: leave out missing and unreadable files and list them in ImageSource.skipped, instead of raising.
    max_pixels: a file whose header says more pixels counts as unreadable, before any of it is decoded; None sets no
        limit. A picture at the default limit takes 0.7 GB while it is decoded, in each of the decoding threads.
    argument: what error messages call ``images``.

    Raises, before anything is decoded: MissingFileError (path, empty folder or pattern without a match),
    ImageReadError (a named file is not of an image type), DtypeError, InputError.
    """
    batch_size = checks.count("batch_size", batch_size)
    resize = None if resize is None else pixels_or_whole("resize", resize)
    crop = optional_pixels("crop", crop)
    num_workers = checks.optional_workers("num_workers", num_workers)
    max_pixels = checks.optional_count("max_pixels", max_pixels)
    check_crop(resize, crop)
    options: dict[str, Any] = dict(
        resize=resize,
        crop=crop,
        fitting=fitting,
        tiling=tiling,
        turns=turns,
        masks=masks,
        batch_size=batch_size,
        skip_bad=skip_bad,
        num_workers=2 if num_workers is None else num_workers,
        max_pixels=max_pixels,
        argument=argument,
    )
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        warnings.warn(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: of files that are cut off the rest is read as gray or black",
            stacklevel=3,
        )
    items = listed(images)
    if items is None:
        if not yields_items(images):
            raise DtypeError(
                f"{argument} must be a path, folder, glob, PIL image, array, tensor, a list or another iterable of those, or a "
                f"DataLoader; got {type(images).__name__}{hint(images)}"
            )
        stream = Stream(images, argument, skip_bad=skip_bad, max_pixels=max_pixels)
        return ImageSource(stream, stream.total(), [], [], **options)
    opener = Opener(skip_bad=skip_bad, max_pixels=max_pixels)
    found = Opened()
    for position, item in enumerate(items):
        one = opener.open(argument if item is images else f"{argument}[{position}]", item)
        found.entries += one.entries
        found.left_out += one.left_out
        found.bad += one.bad
    found.left_out += opener.frames_left()
    if not found.entries:
        if found.bad:
            raise found.bad[0][1]
        raise InputError(f"{argument} must hold at least one image, got an empty {type(images).__name__}")
    return ImageSource(found.entries, len(found.entries), found.left_out, found.bad, **options)
