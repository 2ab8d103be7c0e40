"""Small datasets on disk in every layout, with a bright square as the defect, for the tests of evaluation."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from tiny import picture


def damaged(seed: int, height: int = 64, width: int = 64) -> tuple[Image.Image, Image.Image]:
    """A picture with a bright square, and its mask (0 and 255)."""
    pixels = np.array(picture(seed, height, width))
    mask = np.zeros((height, width), dtype=np.uint8)
    top, left = 10 + seed % 20, 12 + seed % 17
    mask[top : top + 16, left : left + 16] = 255
    pixels[mask > 0] = (250, 250, 20)
    return Image.fromarray(pixels), Image.fromarray(mask)


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def mvtec(
    root: Path, categories: tuple[str, ...] = ("bolt", "cap"), kinds: tuple[str, ...] = ("cut", "dent"), each: int = 2
) -> Path:
    for c, name in enumerate(categories):
        for i in range(6):
            save(picture(100 * c + i), root / name / "train" / "good" / f"{i:03d}.png")
        for i in range(3):
            save(picture(100 * c + i % 6), root / name / "test" / "good" / f"{i:03d}.png")
        for k, kind in enumerate(kinds):
            for i in range(each):
                image, mask = damaged(100 * c + 10 * k + i)
                save(image, root / name / "test" / kind / f"{i:03d}.png")
                save(mask, root / name / "ground_truth" / kind / f"{i:03d}_mask.png")
    (root / "readme.txt").write_text("not a category")
    return root


def btad(root: Path) -> Path:
    for i in range(4):
        save(picture(i), root / "01" / "train" / "ok" / f"{i}.bmp")
    save(picture(1), root / "01" / "test" / "ok" / "7.bmp")
    image, mask = damaged(3)
    save(image, root / "01" / "test" / "ko" / "8.bmp")
    save(mask, root / "01" / "ground_truth" / "ko" / "8.png")
    return root


def visa(root: Path) -> Path:
    rows = []
    for i in range(5):
        place = Path("candle/Data/Images/Normal") / f"{i:04d}.JPG"
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(root / place, "JPEG", quality=95)
        rows.append(["candle", "train" if i < 4 else "test", "normal", place.as_posix(), ""])
    image, mask = damaged(2)
    place, mask_place = Path("candle/Data/Images/Anomaly/000.JPG"), Path("candle/Data/Masks/Anomaly/000.png")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    image.save(root / place, "JPEG", quality=95)
    save(Image.fromarray((np.array(mask) > 0).astype(np.uint8) * 3), root / mask_place)  # VisA numbers its defects
    rows.append(["candle", "test", "anomaly", place.as_posix(), mask_place.as_posix()])
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir()
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *rows])
    return root


def folder(root: Path, masks: bool = True) -> Path:
    for i in range(10):
        save(picture(i), root / "good" / f"{i}.png")
    for i in range(2):
        image, mask = damaged(i)
        save(image, root / "bad" / f"{i}.png")
        if masks:
            save(mask, root / "masks" / f"{i}.png")
    return root
