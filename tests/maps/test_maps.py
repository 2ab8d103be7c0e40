"""Maps: smoothing as SciPy's, placement back into the photograph, colours and overlays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from tiny import picture, tiny_spade

from fastspade import maps
from fastspade.errors import DtypeError, FastspadeError, InputError
from fastspade.images import open_source
from fastspade.images.geometry import CropBox

# -- upsampling and smoothing


def test_upsample_is_bilinear_between_pixel_centres():
    values = torch.rand(3, 7, 5)
    expected = F.interpolate(values[:, None], size=(28, 33), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(maps.upsample(values, (28, 33)), expected)
    torch.testing.assert_close(maps.upsample(values[1].numpy(), (28, 33)), expected[1])
    assert maps.upsample(values, 14).shape == (3, 14, 14)


@pytest.mark.parametrize("sigma", [0.3, 1, 4, 9.5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 5), (64, 50), (7, 300)])
def test_smoothing_is_scipys(shape, sigma):
    values = np.random.default_rng(0).random((2, *shape))
    expected = np.stack([gaussian_filter(one, sigma) for one in values])
    np.testing.assert_allclose(maps.smooth(values, sigma).numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(maps.smooth(torch.from_numpy(values[0]), sigma).numpy(), expected[0], atol=2e-6)


def test_no_smoothing_leaves_a_copy():
    values = torch.rand(2, 8, 8)
    found = maps.smooth(values, 0)
    assert torch.equal(found, values) and found.data_ptr() != values.data_ptr()


# -- placement


@pytest.mark.parametrize("size", [(512, 512), (512, 768), (600, 333), (100, 100), (97, 161)])
def test_a_map_returns_to_where_its_crop_was(size):
    """The crop of a picture of coordinates, put back, is that picture again inside the crop, to a tenth of a pixel."""
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
    truth, largest = torch.stack([y, x, x]), max(size)
    (batch,) = open_source(truth / largest)
    crop = batch.crops[0]
    placed = largest * maps.place_in_image(batch.pixels[0], crop, batch.sizes[0])
    assert placed.shape == truth.shape
    margin = 2 * max(1, min(size) / 256)  # resampling twice blurs the rim
    rows = slice(int(np.ceil(crop.top + margin)), int(crop.top + crop.height - margin))
    columns = slice(int(np.ceil(crop.left + margin)), int(crop.left + crop.width - margin))
    assert placed[:, rows, columns].numel() > 0.7 * 3 * crop.height * crop.width
    torch.testing.assert_close(placed[:, rows, columns], truth[:, rows, columns], rtol=0, atol=0.1)


def test_borders():
    crop, size = CropBox(2, 3, 4, 4), (8, 10)
    values = torch.arange(16.0).view(4, 4) + 1
    lowest, edge, zero, nan = (maps.place_in_image(values, crop, size, border=border) for border in maps.BORDERS)
    for placed in (lowest, edge, zero, nan):
        torch.testing.assert_close(placed[2:6, 3:7], values)
    torch.testing.assert_close(edge, F.pad(values[None, None], (3, 3, 2, 2), mode="replicate")[0, 0])
    torch.testing.assert_close(zero, F.pad(values, (3, 3, 2, 2)))
    torch.testing.assert_close(lowest, F.pad(values, (3, 3, 2, 2), value=1.0))
    both = maps.place_in_image(torch.stack([values, -values]), crop, size)
    torch.testing.assert_close(both[1], F.pad(-values, (3, 3, 2, 2), value=-16.0))
    outside = torch.ones(size, dtype=torch.bool)
    outside[2:6, 3:7] = False
    assert torch.equal(nan.isnan(), outside)


def test_the_whole_image_as_crop_has_no_border():
    values = torch.rand(2, 16, 16) + 1
    for border in maps.BORDERS:
        placed = maps.place_in_image(values, CropBox(0, 0, 33, 21), (33, 21), border=border)
        assert placed.shape == (2, 33, 21) and (placed > 0.99).all()
        torch.testing.assert_close(placed[1], maps.place_in_image(values[1], CropBox(0, 0, 33, 21), (33, 21)))


def test_maps_of_any_resolution_can_be_placed():
    coarse, crop, size = torch.rand(6, 6), CropBox(4, 4, 24, 24), (32, 32)
    placed = maps.place_in_image(coarse, crop, size)
    torch.testing.assert_close(placed[4:28, 4:28], maps.upsample(coarse, 24))


# -- colours


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..255 -> OKLab, by the published forward matrices (the map is made with the inverse ones)."""
    unit = rgb / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )


def test_colours_are_perceptually_uniform():
    lab = oklab(maps.color_table().astype(float))
    assert lab[0, 0] < 0.25 and lab[-1, 0] > 0.9
    assert (np.diff(lab[::4, 0]) > 0).all()  # brighter means more, in grayscale print too
    steps = np.linalg.norm(np.diff(lab[::15], axis=0), axis=1)
    assert steps.max() / steps.min() < 1.1


def test_heatmap_spans_the_table():
    values = torch.linspace(-3, 5, 256).view(1, 256)
    assert np.array_equal(maps.heatmap(values)[0], maps.color_table())
    assert maps.heatmap(values).dtype == np.uint8


def test_heatmaps_share_a_scale():
    both = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 10.0)])
    together = maps.heatmap(both)
    assert together.shape == (2, 4, 4, 3)
    assert (together[0] == maps.color_table()[0]).all() and (together[1] == maps.color_table()[-1]).all()
    given = maps.heatmap(torch.tensor([[-5.0, 0, 5, 20]]), vmin=0, vmax=10)[0]
    assert np.array_equal(given, maps.color_table()[[0, 0, 128, 255]])


def test_heatmap_of_constant_and_missing_values():
    assert (maps.heatmap(torch.full((3, 3), 7.0)) == maps.color_table()[0]).all()
    found = maps.heatmap(torch.tensor([[0.0, 1, float("nan"), float("inf")]]))[0]
    assert np.array_equal(found, [*maps.color_table()[[0, 255]], [128, 128, 128], maps.color_table()[255]])
    assert (maps.heatmap(torch.full((2, 2), float("nan"))) == 128).all()


# -- overlays


def test_overlay_blends_by_value():
    image, values = np.full((6, 9, 3), 200, np.uint8), torch.rand(6, 9)
    colors, risen = maps.heatmap(values).astype(float), ((values - values.min()) / (values.max() - values.min())).numpy()
    for alpha in (0, 0.3, 1):
        drawn = maps.overlay(image, values, alpha=alpha)
        assert drawn.mode == "RGB" and drawn.size == (9, 6)
        weight = alpha * risen[..., None]
        np.testing.assert_allclose(np.asarray(drawn, dtype=float), 200 * (1 - weight) + colors * weight, atol=0.51)


def test_the_image_shows_where_the_map_is_low_or_missing():
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    values = torch.ones(4, 4)
    values[1, 2], values[2, 2] = float("nan"), 0
    drawn = np.asarray(maps.overlay(image, values, alpha=1))
    assert (drawn[1:3, 2] == image[1:3, 2]).all()
    assert (np.delete(drawn.reshape(-1, 3), [6, 10], axis=0) == maps.color_table()[-1]).all()


def test_what_the_network_did_not_see_is_dimmed():
    drawn = np.asarray(maps.overlay(np.full((8, 10, 3), 200, np.uint8), torch.zeros(8, 10), seen=CropBox(2, 3, 4, 4)))
    assert (drawn[2:6, 3:7] == 200).all() and (drawn == 200).sum() == 3 * 16 and drawn.min() == 80


def test_every_kind_of_image_can_be_drawn_on(tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    for image in (picture, Image.fromarray(picture), tmp_path / "a.png", tensor, tensor / 255):
        assert np.array_equal(np.asarray(maps.overlay(image, torch.zeros(8, 8), alpha=0)), picture)


def test_masks_are_outlined():
    mask = np.zeros((20, 20), bool)
    mask[5:12, 6:20] = True  # touches the right edge, which is no outline
    drawn = np.asarray(maps.overlay(np.zeros((20, 20, 3), np.uint8), torch.zeros(20, 20), alpha=0, mask=mask))
    expected = mask.copy()
    expected[6:11, 7:20] = False
    assert np.array_equal((drawn == (0, 255, 0)).all(axis=2), expected)


def test_colorbar_is_added_at_the_right():
    image, values = np.zeros((120, 90, 3), np.uint8), torch.rand(120, 90)
    plain = maps.overlay(image, values)
    barred = maps.overlay(image, values, colorbar=True)
    assert barred.height == 120 and barred.width > 90 + 8
    assert np.array_equal(np.asarray(barred)[:, :90], np.asarray(plain))
    bar = np.asarray(barred)[:, 90 + 4]
    assert (bar[0] == maps.color_table()[-1]).all() and (bar[-1] == maps.color_table()[0]).all()
    assert (np.asarray(barred)[:, 90 + 16 :] < 128).any()  # labels


# -- mistakes


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: maps.smooth(torch.rand(8, 8), -1), InputError, r"sigma must be.*got -1"),
        (lambda: maps.smooth(torch.rand(8, 8), float("nan")), InputError, r"sigma must be.*got nan"),
        (lambda: maps.smooth(torch.full((8, 8), float("nan")), 1), InputError, r"maps must be finite"),
        (lambda: maps.smooth([[1.0]], 1), DtypeError, r"maps must be a tensor or an array, got list"),
        (lambda: maps.upsample(torch.rand(8), 3), InputError, r"maps must have shape .*got \(8,\)"),
        (lambda: maps.upsample(torch.rand(0, 8, 8), 3), InputError, r"got \(0, 8, 8\)"),
        (lambda: maps.upsample(torch.rand(8, 8), 0), InputError, r"size must be at least 1x1, got 0x0"),
        (
            lambda: maps.place_in_image(torch.rand(8, 8), CropBox(0, 0, 8, 8), (8, 8), border="wrap"),
            InputError,
            r"border .*'wrap'",
        ),
        (lambda: maps.place_in_image(torch.rand(8, 8), CropBox(0, 0, 8, 8), (0, 8)), InputError, r"size .*got 0x8"),
        (lambda: maps.heatmap(torch.rand(8, 8), vmin=2, vmax=1), InputError, r"vmin must not be larger.*vmin 2 and vmax 1"),
        (lambda: maps.heatmap(torch.rand(8, 8), vmax=float("inf")), InputError, r"vmin and vmax must be finite"),
        (
            lambda: maps.overlay(np.zeros((8, 9, 3), np.uint8), torch.rand(8, 8)),
            InputError,
            r"size 8x9, got \(8, 8\); use place_in_image",
        ),
        (lambda: maps.overlay(np.zeros((8, 8, 3), np.uint8), torch.rand(8, 8), alpha=2), InputError, r"alpha .*got 2"),
        (
            lambda: maps.overlay(np.zeros((8, 8, 3), np.uint8), torch.rand(8, 8), mask=np.ones((4, 4))),
            InputError,
            r"mask must have the image's size 8x8, got \(4, 4\)",
        ),
    ],
)
def test_mistakes_are_named(call, kind, says):
    with pytest.raises(kind, match=says) as caught:
        call()
    assert isinstance(caught.value, FastspadeError)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("keep_crop", [False, True])
def test_an_overlay_shows_a_deep_picture_at_full_range(bits, keep_crop, tmp_path):
    gray = np.asarray(picture(3).convert("L"))
    Image.fromarray(gray.astype(np.uint16) << (bits - 8)).save(tmp_path / "a.png")
    model = tiny_spade(keep_crop=keep_crop).fit([picture(i) for i in range(3)])
    shown = np.asarray(model.score(tmp_path / "a.png").images[0].picture()).astype(int)
    assert np.abs(shown - gray[..., None]).max() <= 2
