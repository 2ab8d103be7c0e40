"""Planted faults in what surrounds the search: equal pixels left out, images named several times, answers written, and rows
without a certificate searched again. Each must be found by comparing with the CPU engine's bits and with what may be counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulated_engine import build, kernels_of
from planted_faults import in_a_process_of_its_own
from search_cases import Case, nearly_equal, pyramid

from fastspade.search.cpu import search_cpu
from fastspade.search.cuda import search_cuda

pytestmark = pytest.mark.slow  # compiles an engine for every planted fault

REDO, PRODUCTS, REPEATS, FINISH, SLOTS = (f"csrc/cuda/{name}.cuh" for name in ("redo", "products", "repeats", "finish", "slots"))
MUTANTS = {
    "limit_below_equally_near_pixels": (REDO, "f.kappa + f.kappa - 1], ~0u);", "f.kappa + f.kappa - 1], 0u);"),
    "reach_in_unscaled_units": (REDO, "rounded_up(key_value(limit), scale);", "key_value(limit);"),
    "norms_filter_too_much": (REDO, "query.length * gallery.length) > reach", "0.5f * query.length * gallery.length) > reach"),
    "norms_filter_nothing": (REDO, "query.length * gallery.length) > reach", "1e9f * query.length * gallery.length) > reach"),
    "product_forgets_the_coarsest_group": (
        REDO,
        "for (int g = 1; g < s.group_count; ++g, taps",
        "for (int g = 1; g < s.group_count - 1; ++g, taps",
    ),
    "product_reads_the_wrong_tap": (REDO, "(k % 2 == 0 ? right.low : right.high)", "(k % 2 == 0 ? right.high : right.low)"),
    "product_takes_bfloat16_for_float16": (PRODUCTS, "        if (s.bfloat16) {", "        if (false) {"),
    "product_summed_over_half_of_the_lanes": (PRODUCTS, "mask < 8; mask <<= 1", "mask < 4; mask <<= 1"),
    "bound_without_what_rounding_took": (REDO, "largest_product(product, query, gallery)", "product"),
    "bound_of_another_image": (REDO, "scale / s.gallery_scale[image], largest", "scale / s.gallery_scale[0], largest"),
    "pairs_beyond_a_share_ranked_too": (REDO, "if (real && lane % 8 == 0 && key < limit)", "if (lane % 8 == 0 && key < limit)"),
    "images_named_again_searched_again": (REDO, "image >= 0 && !repeats(", "(image >= 0 || pair < all) && !repeats("),
    "repeated_pixels_searched_again": (REDO, "image >= 0 && !repeats(", "image >= 0 || repeats("),
    "a_warp_s_share_left_out": (REDO, "first + warp * redo_share + k * 32", "first + (warp | 1) * redo_share + k * 32"),
    "list_cut_back_before_all_have_added": (
        REDO,
        "            block_barrier();\n            const bool last",
        "            const bool last",
    ),
    "failed_rows_counted_by_one_block_alone": (REDO, "failure += block_count()", "failure += 2 * block_count()"),
    "equal_before_in_the_same_image_forgotten": (REPEATS, "        wanted -= own.rank;\n", ""),
    "one_equal_too_many_counted": (REPEATS, "wanted -= before.rank + 1;", "wanted -= before.rank + 2;"),
    "equals_of_images_that_are_not_searched_counted": (
        REPEATS,
        "if (searched(p, row, slot, at / p.pixels)) ",
        "",
    ),
    "kappa_th_equal_left_out": (REPEATS, "real && wanted <= 0)", "real && wanted <= 1)"),
    "search_for_the_image_ends_too_early": (REPEATS, "if (chosen[middle] < image)", "if (chosen[middle] <= image)"),
    "earlier_equals_not_followed": (REPEATS, "        at = before.previous;", "        at = -1;"),
    "left_out_pixels_counted_as_available": (REPEATS, "count_bits(pixels & ~repeats)", "count_bits(pixels)"),
    "equal_hashes_taken_for_equal_vectors": (REPEATS, "same = same && distance == 0.0;", "same = same && distance >= 0.0;"),
    "repeat_bits_of_the_next_pixel": (REPEATS, "p.repeats[item] = repeats;", "p.repeats[item] = repeats >> 1;"),
    "images_named_again_searched_twice": (SLOTS, " && (slot == 0 || chosen[slot - 1] != image) ?", " ?"),
    "copies_counted_without_the_last": (SLOTS, "slot + copies < p.slots &&", "slot + copies < p.slots - 1 &&"),
    "copies_of_nearer_pixels_not_counted": (FINISH, "slot_of(p, keys[j])) - 1;", "slot_of(p, keys[j])) * 0;"),
    "copies_written_once": (FINISH, "            copies = copies_of_slot(p, query_image, slot_of(p, key));\n", ""),
    "places_beyond_the_copies_emptied_too_early": (FINISH, "int i = count + more + lane;", "int i = count + lane;"),
    "kept_by_one_warp_s_first_lanes": (FINISH, "ranked += count_bits(found);", "ranked += found != 0u;"),
}
# What is compiled anew for a fault in a file: the kernels that it is in.
COMPILED = {path: {"changed": kernels_of("redo.cuh")} for path in (REDO, PRODUCTS, FINISH)}
ALL = {"changed": kernels_of("sequence.hpp")}
CASE = Case("redo", ((40, 8, 8), (16, 4, 4), (70, 2, 2)), images=12)
INDEX = torch.tensor([[7, 3, 11, 7, 7], [0, 1, 2, 9, 9]])


def plain(images: int, seed: int) -> list[torch.Tensor]:
    """Random features whose lower half is one vector."""
    levels = pyramid(CASE, images, seed)
    for level, vectors in zip(levels, pyramid(CASE, 1, 99), strict=True):
        level[:, :, level.shape[2] // 2 :] = vectors[:, :, :1, :1]
    return levels


def uniform(images: int, seed: int) -> list[torch.Tensor]:
    """One vector everywhere."""
    return [level[:1, :, :1, :1].expand(images, *level.shape[1:]).clone() for level in pyramid(CASE, 1, seed)]


def crowded(images: int, seed: int) -> list[torch.Tensor]:
    """The same, but the lower half's pixels differ by less than 16 bits tell, and a few are exactly equal."""
    levels = plain(images, seed)
    for level in levels:
        half = level.shape[2] // 2
        level[:, :, half:] = nearly_equal(level[:, :, half:])
        level[:, :, -1:, -1:] = level[:1, :, -1:, -1:].clone()
        level *= torch.linspace(1, 1.0001, images)[:, None, None, None]
        level[0] *= 8 if images > 2 else 1  # a scale of its own
    return levels


def assert_sound(engine) -> None:
    """An engine answers right and counts right, over several orders of threads."""
    sort = torch.Tensor.sort
    for seed in range(4):
        engine.set_seed(seed)
        engine.set_device(110_000, 4)
        for make, index, kappa in (
            (plain, INDEX, 3),
            (plain, None, 40),
            (crowded, INDEX, 3),
            (crowded, None, 20),
            (plain, INDEX, 300),
            (uniform, None, 3),
        ):
            query, gallery = make(2, 1), make(12, 2)
            expected = search_cpu(query, gallery, kappa, index, 1)
            with pytest.MonkeyPatch.context() as patch:
                if seed >= 2:  # every hash is the same
                    patch.setattr(torch.Tensor, "sort", lambda t, *a, **o: sort(t * 0 if t.dim() == 1 else t, *a, **o))
                found = search_cuda(query, gallery, None, kappa, index, 1, True, seed == 1, engine)
            assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]), f"{make.__name__}, {kappa}"
            uncertain, exact, filtered, bounded, _ = found[2].tolist()
            assert bounded <= 0.6 * filtered, "norms filter little"
            assert exact <= bounded + len(found[0]) * max(kappa + 8, kappa * 3 // 2), "many ranked"
            if index is None and make is not uniform and seed < 2:
                assert filtered == uncertain * (CASE.images * 64 if make is crowded else 616), "not all pairs filtered once"
            elif index is not None and make is crowded:
                assert filtered <= uncertain * 4 * 64, "images named again filtered again"
            if index is not None and seed == 0 or make is uniform:
                assert (uncertain > 0) == (make is crowded), f"{uncertain} rows not certified"


def test_the_kernels_as_they_are_have_no_fault(emulated):
    assert in_a_process_of_its_own(assert_sound, emulated) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found(name, tmp_path: Path):
    path, text, other = MUTANTS[name]
    assert in_a_process_of_its_own(assert_sound, build(tmp_path, {path: (text, other)}, COMPILED.get(path, ALL)))
