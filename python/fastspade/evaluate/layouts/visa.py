"""VisA: split_csv/1cls.csv lists object, split, label, image and mask; paths are relative to the dataset's folder."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from fastspade.evaluate.category import Category, Problems, TestImage, choose

COLUMNS = ("object", "split", "label", "image", "mask")


def read(root: Path, wanted: list[str], problems: Problems) -> list[Category]:
    table = root / "split_csv" / "1cls.csv"
    if not table.is_file():
        problems.add(f"{table} is missing (a VisA converted to MVTec's folders is read with --layout mvtec)")
        return []
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            rows = [] if absent else list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        problems.add(f"{table} is not a CSV table ({error})")
        return []
    if absent:
        problems.add(f"{table} lacks the columns {', '.join(absent)}")
        return []
    train: dict[str, list[Path]] = {}
    test: dict[str, list[TestImage]] = {}
    known = list(dict.fromkeys(row["object"] for row in rows if row["object"]))
    chosen = choose(known, wanted, problems)
    for line, row in enumerate(rows, start=2):
        where = f"{table} line {line}"
        if not all(row[name] for name in COLUMNS[:4]):
            problems.add(f"{where} has an empty field")
            continue
        if row["object"] not in chosen:
            continue
        _add(row, root, where, train, test, problems)
    found = []
    for name in chosen:
        if name not in train or name not in test:
            problems.add(f"{table} lists no {'training' if name not in train else 'test'} images of {name}")
        found.append(Category(name, tuple(sorted(train.get(name, ()))), tuple(test.get(name, ()))))
    return found


def _add(
    row: dict[str, str],
    root: Path,
    where: str,
    train: dict[str, list[Path]],
    test: dict[str, list[TestImage]],
    problems: Problems,
) -> None:
    name, split, label = row["object"], row["split"], row["label"]
    image = _inside(root, row["image"], where, problems)
    if image is None:
        return
    if split not in ("train", "test") or label not in ("normal", "anomaly"):
        problems.add(f"{where} has split {split!r} and label {label!r}; needs train or test, normal or anomaly")
    elif split == "train":
        if label == "anomaly":
            problems.add(f"{where} puts an anomaly into the training split")
        train.setdefault(name, []).append(image)
    elif label == "normal":
        test.setdefault(name, []).append(TestImage(image, "good"))
    else:
        mask = _inside(root, row["mask"], where, problems) if row["mask"] else None
        if not row["mask"]:
            problems.add(f"{where} names no mask for the anomaly {row['image']}")
        test.setdefault(name, []).append(TestImage(image, "anomaly", mask))


def _inside(root: Path, text: str, where: str, problems: Problems) -> Path | None:
    """The file a table entry names; it must exist and may not point out of the dataset."""
    relative = PurePosixPath(text)
    if relative.is_absolute() or ".." in relative.parts:
        problems.add(f"{where} points outside the dataset: {text}")
        return None
    path = root / relative
    if not path.is_file():
        problems.add(f"{where} names {path}, which is missing")
        return None
    return path
