"""The region of interest: nothing outside it is compared or scored, whatever form it was given in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TinyNet, picture, tiny_spade

from fastspade import Spade
from fastspade.errors import InputError, MissingFileError
from fastspade.images.region import check_roi, masks_of
from fastspade.nn import SpadeModule
from fastspade.spade.image_score import _descriptors

NORMAL = [picture(seed, 128, 128) for seed in range(4)]
MASK = np.zeros((128, 128), bool)
MASK[64:100, 40:90] = True
OPTIONS = dict(resize=128, crop=128, sigma=1.0, reflect_border=False, image_score="knn", k_image=None)


def spoilt(inside: bool):
    found = np.array(NORMAL[0])
    top, left = (75, 60) if inside else (10, 10)
    found[top : top + 12, left : left + 12] = 255 - found[top : top + 12, left : left + 12]
    return found


@pytest.fixture(scope="module")
def fitted():
    return tiny_spade(**OPTIONS | {"resize": (128, 128), "crop": None}, roi=MASK).fit(NORMAL)


def test_maps_are_zero_outside_and_the_pictures_own_size(fitted):
    found = fitted.score([picture(9, 128, 128), picture(8, 128, 128)]).anomaly_maps
    assert found.shape == (2, 128, 128)
    assert (found[:, ~MASK] == 0).all() and (found[:, MASK] > 0).mean() > 0.99


def test_cells_inside_are_compared_with_cells_inside_alone(fitted):
    """Against brute force over the cells that a pixel of the mask touches, of levels cut to where the mask is."""
    query = picture(9, 128, 128)
    top, left, height, width = fitted.extractor.window
    assert (top, left, height, width) == (64, 32, 64, 64) and fitted.bank.level_shapes[0] == (7, 16, 16)
    cells = torch.from_numpy(MASK[64:, 32:96].reshape(16, 4, 16, 4).any((1, 3)).ravel())
    batch = next(iter(fitted.extractor.open([query])))
    _, pyramid = fitted.extractor(batch.pixels, batch.inside)
    assert torch.equal(pyramid[0][0, -1].ravel() == 0, cells)

    def inside(levels):
        return _descriptors([levels[0][:, :-1], *levels[1:]], "bilinear")[:, cells].T.double()

    found = fitted.score(query)
    gallery = torch.cat([inside([level[i : i + 1] for level in fitted.bank.pyramid]) for i in found.neighbors[0]])
    wanted = torch.cdist(inside(pyramid), gallery).square().min(dim=1)
    image, place = wanted.indices // int(cells.sum()), cells.nonzero()[:, 0][wanted.indices % int(cells.sum())]
    assert np.array_equal(found.matched_image[0].ravel()[cells], found.neighbors[0][image])
    assert np.array_equal((found.matched_y[0] * 16 + found.matched_x[0]).ravel()[cells], place)


def test_what_happens_outside_changes_the_embedding_not_at_all(fitted):
    good, outside, inside = fitted.score([np.array(NORMAL[0]), spoilt(False), spoilt(True)]).image_scores
    assert outside == good and inside != good


@pytest.mark.parametrize("name", ["model.safetensors", "folder"])
def test_a_saved_model_keeps_its_region(fitted, tmp_path, name):
    fitted.save(tmp_path / name)
    loaded = Spade.load(tmp_path / name, backbone=TinyNet(), device="cpu", progress=False)
    query = picture(9, 128, 128)
    assert np.array_equal(loaded.score(query).anomaly_maps, fitted.score(query).anomaly_maps)


def test_files_arrays_and_polygons_are_the_same(tmp_path):
    half = np.zeros((40, 60), np.uint8)
    half[:, :30] = 255
    Image.fromarray(half).save(tmp_path / "mask.png")
    forms = [tmp_path / "mask.png", half, [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]]
    for form in forms:
        mask = masks_of(check_roi("roi", form))("any")
        assert mask.mean() == pytest.approx(0.5, abs=1e-3) and mask[0, 0] and not mask[-1, -1]


def test_a_folder_has_a_mask_a_picture_by_stem(tmp_path):
    for i in range(3):
        picture(i, 64, 64).save(tmp_path / f"part{i}.png")
    (tmp_path / "masks").mkdir()
    for i in range(3):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, 16 * i : 16 * i + 24] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"part{i}.png")
    files = [str(tmp_path / f"part{i}.png") for i in range(3)]
    model = tiny_spade(roi=tmp_path / "masks", k=2).fit(files)
    found = model.score(files)
    for i in range(3):
        assert (found.anomaly_maps[i][:, : 16 * i] == 0).all() and (found.anomaly_maps[i][:, 16 * i + 24 :] == 0).all()
    model.calibrate()
    with pytest.raises(InputError, match="image_00000: roi: the folder .* holds no mask named image_00000"):
        model.score(picture(0))


def part_on_a_plain_ground(seed: int, left: int = 40):
    random = np.random.default_rng(seed)
    found = np.full((128, 128, 3), 60.0) + random.normal(0, 1, (128, 128, 3))
    found[32:96, left : left + 48] = 170 + random.normal(0, 12, (64, 48, 3))
    return np.clip(found, 0, 255).astype(np.uint8)


def test_auto_finds_the_part(tmp_path):
    model = tiny_spade(**OPTIONS | {"reflect_border": True}, roi="auto").fit(
        [part_on_a_plain_ground(i, 30 + 4 * i) for i in range(5)]
    )
    found = model.score(part_on_a_plain_ground(9, 50)).anomaly_maps[0]
    assert (found[40:88, 56:92] > 0).mean() > 0.95 and (found[:12] == 0).all() and (found[:, :16] == 0).all()
    model.save(tmp_path / "m.safetensors")
    loaded = Spade.load(tmp_path / "m.safetensors", backbone=TinyNet(), device="cpu", progress=False)
    assert np.array_equal(loaded.score(part_on_a_plain_ground(9, 50)).anomaly_maps[0], found)


def test_tiles_outside_are_left_out():
    model = tiny_spade(resize="whole", crop=None, tile=64, roi=MASK).fit(NORMAL)
    assert len(model.bank) < 4 * 9
    found = model.score(picture(9, 128, 128)).anomaly_maps[0]
    assert (found[~MASK] == 0).all() and (found[MASK] > 0).mean() > 0.99


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros((4, 4)), InputError, "its mask is empty"),
        (np.zeros((4, 4, 3)), InputError, r"roi must be a mask \(H, W\)"),
        ([(0, 0), (1, 0)], InputError, "polygon of 3 points or more"),
        ([(0, 0), (100, 0), (1, 1)], InputError, "in shares of the width and height"),
        ("gone.png", MissingFileError, "no such file or folder: gone.png"),
        (3, TypeError, "roi must be a mask"),
        ({"shape": [4, 4], "bits": "x"}, InputError, "not usable"),
    ],
)
def test_regions_that_cannot_be_are_named(value, error, message):
    with pytest.raises(error, match=message):
        tiny_spade(roi=value)


def test_a_module_refuses_a_region(fitted):
    with pytest.raises(InputError, match="model has a roi"):
        SpadeModule(fitted)
