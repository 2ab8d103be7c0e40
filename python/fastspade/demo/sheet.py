"""The contact sheet: every category's test images beside their anomaly maps and true masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastspade import maps
from fastspade.demo.scenes import TestImage

CELL = 112
MARGIN = 8
LABEL = 18
BACKGROUND, INK, QUIET = (255, 255, 255), (20, 20, 20), (110, 110, 110)


def contact_sheet(categories: Sequence[tuple[str, Sequence[TestImage], np.ndarray]]) -> Image.Image:
    """categories: (name, N test images, maps (N, H, W)). One block per category; in it one column per image (one of each
    defect and one good), three rows: photograph, heat map, true mask."""
    columns = max(len(_pick(test)) for _, test, _ in categories)
    left = 96
    width = left + columns * (CELL + MARGIN) + MARGIN
    block = 3 * (CELL + MARGIN) + LABEL + MARGIN
    sheet = Image.new("RGB", (width, len(categories) * block + MARGIN), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, (name, test, scores) in enumerate(categories):
        top = number * block + MARGIN
        draw.text((MARGIN, top), name, fill=INK, font=ImageFont.load_default(size=16))
        for row, label in enumerate(("photograph", "anomaly map", "true defect")):
            draw.text((MARGIN, top + LABEL + row * (CELL + MARGIN) + CELL // 2 - 7), label, fill=QUIET, font=font)
        low, high = float(scores.min()), float(scores.max())
        for column, i in enumerate(_pick(test)):
            x = left + column * (CELL + MARGIN)
            draw.text((x, top), test[i].defect, fill=INK, font=font)
            mask = np.repeat((test[i].mask * 255).astype(np.uint8)[..., None], 3, axis=2)
            for row, picture in enumerate((test[i].picture, maps.heatmap(scores[i], vmin=low, vmax=high), mask)):
                tile = Image.fromarray(np.asarray(picture)).resize((CELL, CELL), Image.Resampling.LANCZOS)
                place = (x, top + LABEL + row * (CELL + MARGIN))
                sheet.paste(tile, place)
                draw.rectangle((*place, place[0] + CELL - 1, place[1] + CELL - 1), outline=(200, 200, 200))
    return sheet


def _pick(test: Sequence[TestImage]) -> list[int]:
    """The first image of every kind."""
    first: dict[str, int] = {}
    for i, image in enumerate(test):
        first.setdefault(image.defect, i)
    return list(first.values())
