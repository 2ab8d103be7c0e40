"""Image sources: every kind of picture is read right, resized as the paper does, and failures name the file."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hostile_files import png_header
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms

from fastspade.errors import DtypeError, FastspadeError, ImageReadError, InputError, MissingFileError
from fastspade.images import as_rgb, open_source

AS_IS = {"resize": None, "crop": None}


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 with structure at several scales."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 90 * np.sin(x / 7 + seed)[..., None] * np.cos(y[..., None] / [5, 11, 23])
    return (waves + random.normal(0, 12, (height, width, 3))).clip(0, 255).astype(np.uint8)


def read_one(images, **options) -> torch.Tensor:
    """(3, H, W) of the only picture."""
    (batch,) = open_source(images, **options)
    assert len(batch) == 1
    return batch.pixels[0]


def to_levels(pixels: torch.Tensor) -> np.ndarray:
    """(H, W, 3) in 0..255."""
    return pixels.permute(1, 2, 0).numpy() * 255


# -- resizing


@pytest.mark.parametrize("shape", [(256, 256), (900, 900), (300, 417), (417, 300), (61, 40), (1, 9)])
def test_resizes_and_crops_as_torchvision_does(shape):
    image = Image.fromarray(photo(*shape))
    expected = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
    found = to_levels(read_one(image))
    assert found.shape == (224, 224, 3)
    assert np.abs(found - np.asarray(expected, dtype=float)).max() <= 1.001  # 8-bit rounding


@pytest.mark.parametrize("shape", [(256, 256), (530, 417), (61, 40)])
def test_float_images_are_resized_like_8_bit_ones(shape):
    picture = photo(*shape)
    tensor = torch.from_numpy(picture).permute(2, 0, 1) / 255
    assert np.abs(to_levels(read_one(tensor)) - to_levels(read_one(Image.fromarray(picture)))).max() <= 1.5


def test_a_wide_strip_needs_no_wide_intermediate():
    batch = next(iter(open_source(photo(2, 60_000))))  # resized whole it would be 256 x 7,680,000
    assert batch.pixels.shape == (1, 3, 224, 224) and batch.sizes == [(2, 60_000)]


def test_the_crop_box_is_where_the_crop_lies():
    (batch,) = open_source(np.zeros((512, 1024, 3), np.uint8))
    crop = batch.crops[0]
    assert (crop.top, crop.left, crop.height, crop.width) == (32, 288, 448, 448)
    assert batch.sizes == [(512, 1024)]


def test_nothing_changes_without_resize_and_crop():
    picture = photo(33, 57)
    assert np.array_equal(np.rint(to_levels(read_one(picture, **AS_IS))), picture)


def test_sizes_must_agree_without_a_crop():
    with pytest.raises(InputError, match=r"image_00000 has 8x8, image_00001 has 8x9; set crop"):
        list(open_source([photo(8, 8), photo(8, 9)], **AS_IS))


def test_a_crop_larger_than_the_image_names_it():
    with pytest.raises(InputError, match=r"image_00000: crop must fit.*got crop 16 for 8x30"):
        list(open_source(photo(8, 30), resize=None, crop=16))


# -- formats


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "webp", "ppm"])
def test_lossless_formats_read_exactly(tmp_path, extension):
    picture = photo(20, 30)
    path = tmp_path / f"a.{extension}"
    Image.fromarray(picture).save(path, **({"lossless": True} if extension == "webp" else {}))
    assert np.array_equal(np.rint(to_levels(read_one(path, **AS_IS))), picture)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(photo(20, 30)).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    found = np.rint(to_levels(read_one(path, **AS_IS)))
    assert np.abs(found - np.asarray(image.convert("RGB"), dtype=float)).max() <= (2 if mode == "YCbCr" else 0)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "array", "deep array"])
def test_transparency_is_composited_on_white(tmp_path, kind):
    alpha = np.array([[0, 255, 128]], np.uint8)
    if kind == "palette":
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
        image.putpalette([50, 50, 50] * 3)
        image.save(tmp_path / "a.png", transparency=bytes(alpha[0]))
        found = read_one(tmp_path / "a.png", **AS_IS)
    else:
        pixels = np.dstack([np.full((1, 3, 1 if kind == "LA" else 3), 50, np.uint8), alpha])
        if kind == "array":
            found = read_one(pixels, **AS_IS)
        elif kind == "deep array":
            found = read_one(pixels.astype(np.uint16) * 257, **AS_IS)
        else:
            Image.fromarray(pixels, kind).save(tmp_path / "a.png")
            found = read_one(tmp_path / "a.png", **AS_IS)
    expected = [255, 50, 255 + (50 - 255) * 128 / 255]
    for channel in to_levels(found)[0].T:
        np.testing.assert_allclose(channel, expected, atol=1)


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_16_bit_is_scaled_not_clipped(tmp_path, extension):
    values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    path = tmp_path / f"deep.{extension}"
    Image.fromarray(values).save(path)
    found = read_one(path, **AS_IS)
    np.testing.assert_allclose(found.numpy(), np.broadcast_to(values / 65535, (3, 20, 30)), atol=1e-5)
    assert np.abs(np.asarray(as_rgb(path))[..., 0] - values / 257).max() <= 0.51


def test_big_endian_16_bit_tiff(tmp_path):
    values = np.array([[0, 256, 65535]], ">u2")
    data = struct.pack(">2sHI", b"MM", 42, 8)
    tags = [(256, 3), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8 + 2 + 12 * 8 + 4), (278, 1), (279, 6)]
    data += struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    path = tmp_path / "motorola.tif"
    path.write_bytes(data + struct.pack(">I", 0) + values.tobytes())
    np.testing.assert_allclose(read_one(path, **AS_IS)[0].numpy(), values / 65535, atol=1e-6)


def test_integers_beyond_16_bits_are_refused(tmp_path):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(path)
    with pytest.raises(ImageReadError, match=r"deep\.tif.*0\.\.65535, got 0\.\.70000"):
        read_one(path, **AS_IS)


def test_float_tiff(tmp_path):
    good, bad = tmp_path / "good.tif", tmp_path / "bad.tif"
    Image.fromarray(np.array([[0, 0.25, 1]], np.float32)).save(good)
    Image.fromarray(np.array([[0, 0.25, np.nan]], np.float32)).save(bad)
    np.testing.assert_allclose(read_one(good, **AS_IS)[2].numpy(), [[0, 0.25, 1]])
    with pytest.raises(ImageReadError, match=r"bad\.tif.*\[0, 1\]"):
        read_one(bad, **AS_IS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    upright = photo(12, 20)
    # How the camera stored it: the inverse of what each orientation asks the reader to do.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    (batch,) = open_source(path, **AS_IS)
    assert batch.sizes == [(12, 20)]
    assert np.array_equal(np.rint(to_levels(batch.pixels[0])), upright)
    assert np.array_equal(np.asarray(as_rgb(path)), upright)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_one(tmp_path / "a.gif", **AS_IS)[:, 0, 0].tolist() == [1, 0, 0]


# -- pictures in memory


@pytest.mark.parametrize(
    "make",
    [
        Image.fromarray,
        lambda p: p,
        lambda p: p[..., ::-1][..., ::-1],  # negative strides twice over
        lambda p: p.astype(np.uint16) * 257,
        lambda p: p / 255,
        lambda p: torch.from_numpy(p).permute(2, 0, 1),
        lambda p: torch.from_numpy(p).permute(2, 0, 1).double() / 255,
        lambda p: torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255,
        lambda p: p[None],
    ],
    ids=["pil", "uint8", "strided", "uint16", "float64", "tensor", "double tensor", "batched tensor", "stack"],
)
def test_every_kind_in_memory_reads_alike(make):
    picture = photo(17, 23)
    np.testing.assert_allclose(to_levels(read_one(make(picture), **AS_IS)), picture, atol=0.01)


def test_gray_arrays(tmp_path):
    gray = photo(9, 9)[..., 0]
    for array in (gray, gray[..., None], gray / 255):
        np.testing.assert_allclose(to_levels(read_one(array, **AS_IS)), np.repeat(gray[..., None], 3, axis=2), atol=0.01)


def test_lists_mix_kinds_and_keep_order(tmp_path):
    Image.fromarray(photo(30, 30, 5)).save(tmp_path / "five.png")
    stack = torch.stack([torch.full((3, 40, 40), value) for value in (0.25, 0.75)])
    mixed = [photo(50, 60, 1), tmp_path, stack, Image.new("RGB", (10, 10), "white")]
    batches = list(open_source(mixed, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    names = [name for batch in batches for name in batch.names]
    assert names == ["image_00000", str(tmp_path / "five.png"), "image_00002", "image_00003", "image_00004"]
    assert [tuple(size) for batch in batches for size in batch.sizes] == [(50, 60), (30, 30), (40, 40), (40, 40), (10, 10)]
    pixels = torch.cat([batch.pixels for batch in batches])
    assert pixels.shape == (5, 3, 224, 224) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[2:].mean(dim=(1, 2, 3)), torch.tensor([0.25, 0.75, 1.0]))


@pytest.mark.parametrize("workers", [0, 1, 2, None])
def test_order_does_not_depend_on_workers(workers):
    pictures = [np.full((20, 20, 3), value, np.uint8) for value in range(0, 250, 10)]
    found = torch.cat([b.pixels for b in open_source(pictures, resize=20, crop=16, batch_size=4, num_workers=workers)])
    assert torch.equal(found[:, 0, 0, 0] * 255, torch.arange(0, 250, 10).float())


def test_originals_decode_again_upright_at_full_size(tmp_path):
    picture = photo(40, 60)
    Image.fromarray(picture).save(tmp_path / "a.png")
    (batch,) = open_source([tmp_path / "a.png", picture])
    for original in batch.originals:
        assert np.array_equal(np.asarray(original()), picture)


# -- loaders


def test_a_data_loader_of_labelled_tensors():
    pictures = torch.rand(7, 3, 32, 32)
    source = open_source(DataLoader(TensorDataset(pictures, torch.arange(7)), batch_size=3), batch_size=4, **AS_IS)
    assert len(source) == source.total == 7
    for _ in range(2):  # a loader can be read twice
        batches = list(source)
        assert [len(batch) for batch in batches] == [4, 3]
        torch.testing.assert_close(torch.cat([batch.pixels for batch in batches]), pictures)


def test_loader_lengths():
    data = TensorDataset(torch.rand(7, 3, 8, 8))
    assert len(open_source(DataLoader(data, batch_size=3, drop_last=True))) == 6
    with pytest.raises(TypeError, match="not known"):
        len(open_source(iter(DataLoader(data))))
    assert open_source(DataLoader(data, batch_size=None)).total is None


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [1, 4])
def test_of_a_stream_no_picture_is_taken_before_its_batch_needs_it(size, workers):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield torch.rand(3, 8, 8)

    batches = iter(open_source(endless(), batch_size=size, num_workers=workers, **AS_IS))
    for number in range(1, 4):
        assert len(next(batches)) == size
        assert taken == number * size
    batches.close()


def test_loader_mistakes_are_named():
    with pytest.raises(DtypeError, match="item 1 must be .*got dict"):
        list(open_source(iter([torch.rand(3, 8, 8), {"image": 1}])))
    with pytest.raises(InputError, match="test_images must hold at least one image"):
        list(open_source(iter([]), argument="test_images"))
    with pytest.raises(InputError, match=r"item 0 must have shape \(1, H, W\)"):
        list(open_source(iter([torch.rand(2, 2, 8, 8)])))


# -- finding files


@pytest.fixture
def tree(tmp_path):
    """b.png, a.JPG, sub/c.png and things that are no images."""
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.png", "a.JPG", "sub/c.png", ".d.png", ".hidden/e.png"):
        Image.fromarray(photo(16, 16)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def names(images) -> list[str]:
    return [name for batch in open_source(images) for name in batch.names]


def test_folders_are_searched_in_depth_and_sorted(tree):
    assert names(tree) == [str(tree / name) for name in ("a.JPG", "b.png", "sub/c.png")]
    assert len(open_source(tree)) == 3


def test_globs(tree):
    assert names(str(tree / "*.png")) == [str(tree / "b.png")]
    assert names(str(tree / "**" / "*.png")) == [str(tree / name) for name in ("b.png", "sub/c.png")]
    assert names(str(tree / "*")) == [str(tree / name) for name in ("a.JPG", "b.png")]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    path = tmp_path / "part[1].png"
    Image.fromarray(photo(8, 8)).save(path)
    assert names(str(path)) == [str(path)]


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda t: t / "gone.png", MissingFileError, r"images: no such file or folder: .*gone\.png"),
        (lambda t: [t / "b.png", t / "gone.png"], MissingFileError, r"images\[1\]: .*gone\.png"),
        (lambda t: str(t / "*.webp"), MissingFileError, r"images: no image files match .*\*\.webp"),
        (lambda t: t / ".hidden" / "..", None, None),
        (lambda t: t / "notes.txt", ImageReadError, r"notes\.txt is not of an image type"),
        (lambda t: "", InputError, r"images must name a file.*empty string"),
        (lambda t: [], InputError, r"images must hold at least one image, got an empty list"),
        (lambda t: 7, DtypeError, r"images must be a path.*got int"),
        (lambda t: [t / "b.png", None], DtypeError, r"images\[1\] must be.*got NoneType"),
        (lambda t: np.zeros((4, 4, 2), np.uint8), InputError, r"images must have shape .*got \(4, 4, 2\)"),
        (lambda t: np.zeros((0, 4, 4, 3), np.uint8), InputError, r"images must hold at least one.*\(0, 4, 4, 3\)"),
        (lambda t: np.zeros((4, 4, 3), bool), DtypeError, r"images must be uint8.*got bool"),
        (lambda t: torch.zeros(5, 4, 3), InputError, r"images must have shape \(1, H, W\).*got \(5, 4, 3\)"),
        (lambda t: torch.zeros(3, 4, 4).int(), DtypeError, r"images must be uint8, uint16 or floating.*got int32"),
        (lambda t: torch.zeros(0, 3, 4, 4), InputError, r"got \(0, 3, 4, 4\)"),
        (lambda t: Image.new("RGB", (0, 4)), InputError, r"images must not be empty.*4x0"),
    ],
)
def test_mistakes_are_found_before_anything_is_decoded(tree, make, kind, says):
    if kind is None:  # an ordinary folder, so that this table cannot pass by refusing everything
        assert len(open_source(make(tree))) == 3
        return
    with pytest.raises(kind, match=says) as caught:
        open_source(make(tree))
    assert isinstance(caught.value, FastspadeError)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=f"no image files in folder {tmp_path}"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"batch_size": 0}, InputError, "batch_size must be at least 1, got 0"),
        ({"resize": 0}, InputError, "resize must be at least 1, got 0"),
        ({"crop": 2.5}, DtypeError, "crop must be a number of pixels, a pair .height, width., or None, got float"),
        ({"num_workers": -1}, InputError, "num_workers must be at least 0, got -1"),
        ({"resize": 100, "crop": 101}, InputError, "crop must not exceed resize .100., got 101"),
    ],
)
def test_options_are_checked(options, kind, says):
    with pytest.raises(kind, match=says):
        open_source(photo(8, 8), **options)


@pytest.mark.parametrize("value", [-2.1, 1.5, float("nan"), float("inf")])
def test_normalised_or_non_finite_tensors_are_refused(value):
    tensor = torch.rand(2, 3, 8, 8)
    tensor[1, 0, 3, 3] = value
    with pytest.raises(InputError, match=r"image_00001: float pixels must lie in \[0, 1\].*not normalised"):
        list(open_source(tensor))


# -- bad files


def bad_files(folder) -> dict[str, str]:
    """Writes one of each; name -> what the message says."""
    whole = folder / "whole.png"
    Image.fromarray(photo(64, 64)).save(whole)
    data = whole.read_bytes()
    whole.unlink()
    (folder / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "hollow.png").write_bytes(png_header(10, 10))
    (folder / "text.png").write_text("this is no picture")
    return {
        "bomb.png": "60000 x 60000 = 3600000000 pixels, more than max_pixels",
        "cut.png": "truncated",
        "empty.png": "the file is empty",
        "hollow.png": "OSError",
        "text.png": "not an image of a type read here",
    }


@pytest.mark.parametrize("name", ["bomb.png", "cut.png", "empty.png", "hollow.png", "text.png"])
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_named(tmp_path, name, workers):
    says = bad_files(tmp_path)[name]
    with pytest.raises(ImageReadError, match=f"{name}.*{says}") as caught:
        list(open_source(tmp_path / name, num_workers=workers))
    assert caught.value.path == str(tmp_path / name)


def test_the_first_bad_file_stops_the_run(tmp_path):
    bad_files(tmp_path)
    for number in range(3):
        Image.fromarray(photo(16, 16)).save(tmp_path / f"a{number}.png")
    source = open_source(tmp_path, batch_size=1)
    seen = []
    with pytest.raises(ImageReadError, match=r"bomb\.png"):
        for batch in source:
            seen += batch.names
    assert seen == [str(tmp_path / f"a{number}.png") for number in range(3)]


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_bad_goes_on_and_lists_what_was_left_out(tmp_path, workers):
    says = bad_files(tmp_path)
    for name in ("a.png", "dd.png", "z.png"):
        Image.fromarray(photo(16, 16)).save(tmp_path / name)
    source = open_source([tmp_path, tmp_path / "gone.png"], skip_bad=True, num_workers=workers, batch_size=2)
    for _ in range(2):  # reading again does not list them twice
        found = [name for batch in source for name in batch.names]
        assert found == [str(tmp_path / name) for name in ("a.png", "dd.png", "z.png")]
        assert [name for name, _ in source.skipped] == [
            str(tmp_path / "gone.png"),
            *(str(tmp_path / name) for name in sorted(says)),
        ]
        assert all(isinstance(error, FastspadeError) and name in str(error) for name, error in source.skipped)


def test_skip_bad_still_fails_where_nothing_is_left(tmp_path):
    bad_files(tmp_path)
    with pytest.raises(ImageReadError, match=r"none of the 5 images could be read; the first: .*bomb\.png"):
        list(open_source(tmp_path, skip_bad=True))
    with pytest.raises(MissingFileError, match=r"gone\.png"):
        open_source([tmp_path / "gone.png"], skip_bad=True)


def test_a_file_that_vanishes_is_named(tmp_path):
    Image.fromarray(photo(8, 8)).save(tmp_path / "a.png")
    source = open_source(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(MissingFileError, match=r"a\.png"):
        list(source)


def test_a_lazily_opened_broken_pil_image_is_named(tmp_path):
    bad_files(tmp_path)
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(ImageReadError, match=r"cut\.png.*truncated"):
        list(open_source(image))
