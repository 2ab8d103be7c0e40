"""Dataset layouts: what is found, and that everything wrong is named before any work begins."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import dataset_trees as trees
import numpy as np
import pytest
from PIL import Image
from tiny import picture

from fastspade.errors import ImageReadError, InputError, MissingFileError
from fastspade.evaluate.dataset import load_mask, read_dataset
from fastspade.evaluate.layouts.files import left_out


def test_mvtec(tmp_path):
    bolt, cap = read_dataset(trees.mvtec(tmp_path), "mvtec")
    assert (bolt.name, cap.name) == ("bolt", "cap") and len(bolt.train) == 6 and len(bolt.test) == 7 and bolt.has_masks
    assert [image.kind for image in bolt.test] == ["good"] * 3 + ["cut"] * 2 + ["dent"] * 2
    for image in bolt.test:
        assert image.defect == (image.mask is not None)
        if image.mask:
            assert image.mask.name == f"{image.path.stem}_mask.png" and image.mask.parent.name == image.path.parent.name
            assert load_mask(image.mask).sum() == 256
    assert [category.name for category in read_dataset(tmp_path, "mvtec", ["cap"])] == ["cap"]


def test_visa(tmp_path):
    (candle,) = read_dataset(trees.visa(tmp_path), "visa")
    assert candle.name == "candle" and len(candle.train) == 4
    assert [image.kind for image in candle.test] == ["good", "anomaly"]
    assert load_mask(candle.test[1].mask).sum() == 256  # any number but 0 is defect


def test_btad(tmp_path):
    (one,) = read_dataset(trees.btad(tmp_path), "btad")
    assert one.name == "01" and len(one.train) == 4 and [image.kind for image in one.test] == ["good", "ko"]
    assert one.test[1].mask.name == "8.png"


def test_folder_holds_out_every_fifth_good_image(tmp_path):
    (category,) = read_dataset(trees.folder(tmp_path / "parts"), "folder")
    assert category.name == "parts" and category.has_masks
    assert [path.name for path in category.train] == [f"{i}.png" for i in range(10) if i % 5]
    assert [image.path.name for image in category.test if not image.defect] == ["0.png", "5.png"]


def test_folder_without_masks_with_train_kinds_and_categories(tmp_path):
    trees.folder(tmp_path / "a", masks=False)
    trees.folder(tmp_path / "b", masks=False)
    trees.save(picture(1), tmp_path / "b" / "train" / "x.png")
    (tmp_path / "b" / "bad" / "chip").mkdir()
    shutil.move(tmp_path / "b" / "bad" / "1.png", tmp_path / "b" / "bad" / "chip" / "1.png")
    a, b = read_dataset(tmp_path, "folder")
    assert not a.has_masks and [path.name for path in b.train] == ["x.png"]
    assert sum(not image.defect for image in b.test) == 10
    assert [image.kind for image in b.test if image.defect] == ["bad", "chip"]


def as_jpeg(name):
    def change(root):
        with Image.open(root / f"{name}.png") as image:
            image.save(root / f"{name}.jpg")
        (root / f"{name}.png").unlink()

    return change


def remove(place):
    return lambda root: shutil.rmtree(root / place) if (root / place).is_dir() else (root / place).unlink()


def put(place, image=None, data=None):
    def change(root):
        if data is not None:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).write_bytes(data)
        else:
            trees.save(image, root / place)

    return change


def csv_row(*row):
    def change(root):
        with open(root / "split_csv" / "1cls.csv", "a", newline="") as file:
            csv.writer(file).writerow(row)

    return change


@pytest.mark.parametrize(
    ("layout", "change", "says"),
    [
        ("mvtec", remove("bolt/train/good"), r"bolt/train/good is missing"),
        ("mvtec", remove("bolt/test/good/000.png"), None),
        ("mvtec", remove("bolt/test/good"), r"bolt/test/good is missing"),
        ("mvtec", remove("bolt/ground_truth/cut"), r"ground_truth/cut is missing"),
        ("mvtec", remove("bolt/ground_truth/cut/001_mask.png"), r"test/cut/001.png has no mask .*001_mask.png"),
        ("mvtec", put("bolt/ground_truth/cut/009_mask.png", picture(1)), r"009_mask.png belongs to no image"),
        ("mvtec", put("bolt/ground_truth/cut/001_mask.png", picture(1, 32, 48)), r"001_mask.png is 32x48 .* 64x64"),
        ("mvtec", put("cap/train/good/003.png", data=b"no image"), r"cannot read .*cap/train/good/003.png"),
        ("mvtec", put("cap/test/chip/note.txt", data=b"text"), r"test/chip holds no images"),
        ("visa", remove("split_csv"), r"1cls.csv is missing"),
        ("visa", remove("candle/Data/Masks/Anomaly/000.png"), r"line 7 names .*000.png, which is missing"),
        ("visa", csv_row("candle", "test", "anomaly", "candle/Data/Images/Normal/0000.JPG", ""), r"line 8 names no mask"),
        ("visa", csv_row("candle", "train", "anomaly", "candle/Data/Images/Normal/0000.JPG", ""), r"line 8 .* training"),
        ("visa", csv_row("candle", "val", "normal", "candle/Data/Images/Normal/0000.JPG", ""), r"split 'val'"),
        ("visa", csv_row("candle", "test", "normal", "../secret.png", ""), r"outside the dataset"),
        ("visa", csv_row("soap", "test", "normal", "candle/Data/Images/Normal/0000.JPG", ""), r"no training images of soap"),
        ("visa", put("split_csv/1cls.csv", data=b"a,b\n1,2\n"), r"lacks the columns object"),
        ("visa", put("split_csv/1cls.csv", data=b"\xff\xfe\x00"), r"not a CSV table"),
        ("btad", remove("01/test/ko"), r"01/test/ko is missing"),
        ("btad", remove("01/ground_truth/ko/8.png"), r"8.bmp has no mask"),
        ("folder", remove("bad"), r"bad is missing"),
        ("folder", remove("masks/1.png"), r"1.png has no mask"),
        ("folder", put("masks/0.jpg", picture(0)), r"0.jpg and .*0.png have one name"),
        ("folder", as_jpeg("masks/1"), r"1.jpg.* a JPEG"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, layout, change, says):
    root = getattr(trees, layout)(tmp_path / "set")
    change(root)
    if says is None:
        read_dataset(root, layout)
        return
    with pytest.raises(InputError, match=says) as caught:
        read_dataset(root, layout)
    assert str(caught.value).startswith(f"dataset: {root} is not in the {layout} layout")


def test_all_problems_come_at_once_but_not_endlessly(tmp_path):
    root = trees.mvtec(tmp_path, each=12)
    shutil.rmtree(root / "cap" / "train")
    for path in (root / "bolt" / "ground_truth").glob("*/*.png"):
        path.unlink()
    with pytest.raises(InputError, match="and 15 more") as caught:
        read_dataset(root, "mvtec")
    assert str(caught.value).count("has no mask") == 10


def test_a_wrong_place_or_name_is_told(tmp_path):
    root = trees.mvtec(tmp_path / "set")
    with pytest.raises(InputError, match="--category bolt"):
        read_dataset(root / "bolt", "mvtec")
    with pytest.raises(InputError, match=r"no category 'nut' \(it has bolt, cap\)"):
        read_dataset(root, "mvtec", ["nut"])
    with pytest.raises(InputError, match="layout must be one of"):
        read_dataset(root, "coco")
    with pytest.raises(MissingFileError, match="no folder at"):
        read_dataset(tmp_path / "gone", "mvtec")
    for layout in ("mvtec", "visa", "btad", "folder"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=layout):
            read_dataset(tmp_path / "empty", layout)


def test_masks_of_every_mode(tmp_path):
    wanted = np.zeros((6, 7), dtype=bool)
    wanted[1:3, 2:5] = True
    gray = Image.fromarray((wanted * 255).astype(np.uint8))
    rgba = Image.fromarray(
        np.dstack([wanted * 200, wanted * 0, wanted * 0, np.full_like(wanted, 255, dtype=int)]).astype(np.uint8)
    )
    for name, image in (
        ("l", gray),
        ("1", gray.convert("1")),
        ("p", gray.convert("P")),
        ("rgb", gray.convert("RGB")),
        ("la", gray.convert("LA")),
        ("rgba", rgba),
        ("i16", Image.fromarray(wanted.astype(np.uint16))),
    ):
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(load_mask(tmp_path / f"{name}.png"), wanted), name
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(ImageReadError, match="bad.png"):
        load_mask(tmp_path / "bad.png")


@pytest.mark.parametrize(
    ("layout", "moved"),
    [
        (
            "mvtec",
            ["bolt/train/good/000.png", "bolt/test/good/001.png", "bolt/test/cut/001.png", "bolt/ground_truth/cut/001_mask.png"],
        ),
        ("btad", ["01/train/ok/2.bmp", "01/test/ko/8.bmp", "01/ground_truth/ko/8.png"]),
        ("folder", ["good/3.png", "good/4.png"]),
    ],
)
def test_folders_in_depth_and_links_are_read_as_fit_reads_them(tmp_path, layout, moved):
    root = getattr(trees, layout)(tmp_path / "set")
    before = read_dataset(root, layout)
    for place in moved:
        path = root / place
        night = tmp_path / "night" / path.parent.relative_to(root)
        night.mkdir(parents=True, exist_ok=True)
        shutil.move(path, night / path.name)
        if not (path.parent / "night").exists():
            (path.parent / "night").symlink_to(night)
    after = read_dataset(root, layout)
    for old, new in zip(before, after, strict=True):
        assert (len(old.train), len(old.test)) == (len(new.train), len(new.test)) and old.has_masks == new.has_masks
    assert [name for name, _ in left_out(root, after)] == []


def test_a_mask_lies_in_the_same_folder_as_its_image(tmp_path):
    root = trees.mvtec(tmp_path)
    for place, name in (("test/cut", "001.png"), ("ground_truth/cut", "001_mask.png")):
        for shift in ("day", "night"):
            (root / "bolt" / place / shift).mkdir()
            shutil.copy(root / "bolt" / place / name, root / "bolt" / place / shift / name)
    found = {image.path.relative_to(root / "bolt" / "test"): image.mask for image in read_dataset(root, "mvtec")[0].test}
    for shift in ("day", "night"):
        assert found[Path("cut", shift, "001.png")] == root / "bolt" / "ground_truth" / "cut" / shift / "001_mask.png"


def test_what_has_no_place_in_the_layout_is_listed(tmp_path):
    root = trees.mvtec(tmp_path)
    for place in ("bolt/train/bad/9.png", "bolt/test/stray.png", "cap/extra.png"):
        trees.save(picture(1), root / place)
    categories = read_dataset(root, "mvtec")
    wanted = {str(root / place) for place in ("bolt/train/bad/9.png", "bolt/test/stray.png", "cap/extra.png")}
    assert {name for name, _ in left_out(root, categories)} == wanted
    assert {name for name, _ in left_out(root, categories[:1])} == {name for name in wanted if "bolt" in name}
