"""Where the CUDA searches keep their lists of candidates, and that every layout of shared memory answers alike.

The plan is pure C++: it says what would run on a device from its shared memory and multiprocessors alone. `precision` is
no part of it. What runs here runs on the emulated device.
"""

from __future__ import annotations

import pytest
import torch
from search_cases import Case, pyramid
from search_checks import assert_exact

from fastspade.search.cuda import plan_cuda, search_cuda

# Shared memory of a block, multiprocessors, sm_90a.
DEVICES = {
    "A100": (166912, 108, False),
    "RTX 3090": (101376, 82, False),
    "L4": (101376, 58, False),
    "RTX 4090": (101376, 128, False),
    "H100": (232448, 132, True),
}
PAPER = ((256, 56, 56), (512, 28, 28), (1024, 14, 14))

GALLERY = Case("gallery", ((70, 42, 28), (136, 21, 14), (30, 11, 7)), images=2)
QUERY = Case("query", ((70, 12, 15), (136, 6, 8), (30, 3, 4)))  # 180 pixels: the last tile is ragged, whatever its height
# Search, kappa, shared memory -> queries per tile, channels per step, stages.
LAYOUTS = {
    ("sm80", 64, 90_000): (32, 32, 3),
    ("sm80", 64, 118_000): (32, 64, 3),
    ("sm80", 3, 100_000): (64, 32, 3),
    ("sm80", 3, 130_000): (64, 64, 3),
    ("sm80", 3, 150_000): (128, 32, 3),
    ("sm80", 3, 232_448): (128, 64, 3),
    ("sm90a", 64, 200_000): (96, 64, 2),
    ("sm90a", 64, 232_448): (96, 64, 3),
    ("sm90a", 3, 160_000): (128, 64, 2),
}


@pytest.mark.parametrize("kernel", ["auto", "sm80"])
@pytest.mark.parametrize("upsample", [0, 1], ids=["nearest", "bilinear"])
@pytest.mark.parametrize("device", DEVICES)
def test_up_to_64_neighbours_are_kept_on_chip_at_the_paper_s_shapes(emulated, monkeypatch, device, upsample, kernel):
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", kernel)
    emulated.set_device(*DEVICES[device])
    for query_images in (1, 8):
        query, gallery = ([torch.empty(1).expand(n, *level) for level in PAPER] for n in (query_images, 50))
        for kappa in range(1, 65):
            plan = plan_cuda(query, gallery, kappa, 50, upsample, engine=emulated)
            assert plan["lists_on_chip"] and plan["groups"] == 3, (kappa, plan)
            assert plan["shared_bytes"] <= DEVICES[device][0]
            assert plan["stages"] >= (2 if plan["path"] == "sm90a" else 3)
            # Room to append, and every candidate beyond kappa that the certificate may need.
            assert plan["keep"] >= kappa + max(8, kappa // 2) and plan["capacity"] >= plan["keep"] + max(12, plan["keep"] // 4)
            assert plan["path"] == ("sm90a" if device == "H100" and kernel == "auto" else "sm80")


@pytest.mark.parametrize("device", DEVICES)
def test_more_neighbours_go_to_the_workspace(emulated, device):
    emulated.set_device(*DEVICES[device])
    query, gallery = ([torch.empty(1).expand(n, *level) for level in PAPER] for n in (1, 50))
    plan = plan_cuda(query, gallery, 400, 50, 1, engine=emulated)
    assert not plan["lists_on_chip"] and plan["shared_bytes"] <= DEVICES[device][0]


def test_coarse_tiles_of_whole_rows_shorten_the_rings_and_cost_no_tile(emulated):
    emulated.set_device(*DEVICES["H100"])
    query, gallery = ([torch.empty(1).expand(n, *level) for level in PAPER] for n in (1, 50))
    plan = plan_cuda(query, gallery, 1, 50, 1, engine=emulated)
    assert plan["strides"] == [128, 112, 128] and plan["rings"] == [0, 252, 128]
    assert plan["jobs"] == 25 + 7 + 2  # tiles of 128, as few as can be


@pytest.mark.parametrize(("layout", "wanted"), LAYOUTS.items(), ids=lambda value: "-".join(map(str, value)))
def test_every_layout_of_shared_memory_answers_exactly(emulated, monkeypatch, layout, wanted):
    kernel, kappa, shared_bytes = layout
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", kernel)
    query, gallery = pyramid(QUERY, 1, 1), pyramid(GALLERY, GALLERY.images, 2)
    emulated.set_device(shared_bytes, 2, kernel == "sm90a")
    plan = plan_cuda(query, gallery, kappa, GALLERY.images, 1, engine=emulated)
    assert (plan["tile_rows"], plan["step_channels"], plan["stages"]) == wanted and plan["lists_on_chip"]
    assert plan["groups"] == 3 and plan["strides"][1] in (98, 112)
    results = []
    for seed in (1, 2):
        emulated.set_seed(seed)
        distances, indices, counters = search_cuda(query, gallery, None, kappa, None, 1, False, engine=emulated)
        assert counters[0] == 0  # nothing is left for the redo to repair
        results.append((distances.reshape(1, 12, 15, kappa), indices.reshape(1, 12, 15, kappa)))
    assert_exact(results[0], query, gallery, kappa)
    for found in results[1:]:
        assert torch.equal(found[0], results[0][0]) and torch.equal(found[1], results[0][1])


@pytest.mark.parametrize("layout", [("sm80", 3, 100_000), ("sm90a", 64, 232_448)], ids=lambda layout: layout[0])
def test_other_operands_and_sampling_in_the_new_layouts(emulated, monkeypatch, layout):
    kernel, kappa, shared_bytes = layout
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", kernel)
    query, gallery = pyramid(QUERY, 1, 1), pyramid(GALLERY, GALLERY.images, 2)
    emulated.set_device(shared_bytes, 2, kernel == "sm90a")
    emulated.set_seed(3)
    assert plan_cuda(query, gallery, kappa, GALLERY.images, 0, engine=emulated)["tile_rows"] == LAYOUTS[layout][0]
    distances, indices, _ = search_cuda(query, gallery, None, kappa, None, 0, True, True, engine=emulated)
    assert_exact(
        (distances.reshape(1, 12, 15, kappa), indices.reshape(1, 12, 15, kappa)), query, gallery, kappa, upsample="nearest"
    )
