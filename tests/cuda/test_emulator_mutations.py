"""The emulation would notice: planted faults in the CUDA kernels, each of which must make the parity check fail.

A fault may need a certain order of threads to show, so every mutant runs under several.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from emulated_engine import UNITS, build, kernels_of, searches
from planted_faults import in_a_process_of_its_own
from search_cases import Case, nearly_equal, pyramid
from search_checks import assert_exact

from fastspade.search.cuda import plan_cuda, search_cuda

pytestmark = pytest.mark.slow  # compiles an engine for every planted fault

CASE = Case("mutation", ((40, 18, 13), (70, 9, 7), (20, 4, 3)), images=3, kappa=2)

# What is compiled anew for a fault in a file: of the search kernels, those that the cases below run.
SM80 = {
    "changed": searches(*(f"template void search_kernel<HalfOperand, 2, {step}>(const SearchParameters);" for step in (64, 32)))
}
SM90 = {"changed": searches("template void search_sm90_kernel<HalfOperand, 4>(FASTSPADE_BY_REFERENCE Sm90Parameters);")}
TILING = {name: UNITS[name] for name in ("plan", "plan_sm90")} | {"kernels": kernels_of("schedule.cuh")}
COMPILED = {
    "csrc/cuda/tile.cuh": SM80,
    "csrc/cuda/search.cuh": SM80,
    "csrc/cuda/row_lists.cuh": SM80,
    "csrc/cuda/tiling.hpp": SM80 | TILING,
    "csrc/cuda/finish.cuh": {"changed": kernels_of("finish.cuh")},
}

MUTANTS = {
    "query_fragment_row_off_by_one": (
        "csrc/cuda/tile.cuh",
        "warp_row + (lane & 15)",
        "warp_row + ((lane + 1) & 15)",
    ),
    "gallery_fragment_halves_exchanged": ("csrc/cuda/tile.cuh", ", (lane >> 3) & 1);", ", 1 - ((lane >> 3) & 1));"),
    "wrong_column_of_the_fragment": (
        "csrc/cuda/search.cuh",
        "(lane & 3) * 2 + (j & 1);\n                if (use.first + at >= end)",
        "(lane & 3) * 2 + 1 - (j & 1);\n                if (use.first + at >= end)",
    ),
    "swizzle_forgotten_on_one_side": (
        "csrc/cuda/tile.cuh",
        "copy_async(side + place(first, piece)",
        "copy_async(side + first * row_bytes + (piece << 4)",
    ),
    "no_barrier_before_the_copy_overwrites_a_stage": (
        "csrc/cuda/search.cuh",
        "            block_barrier();\n            start_copy(stage == 0",
        "            start_copy(stage == 0",
    ),
    "no_barrier_before_the_epilogue": (
        "csrc/cuda/search.cuh",
        "            block_barrier();  // columns and rings are complete\n",
        "",
    ),
    "copies_waited_for_one_step_late": (
        "csrc/cuda/search.cuh",
        "copy_wait<pipeline_stages - 2>();",
        "copy_wait<pipeline_stages - 1>();",
    ),
    "ring_one_column_short": (
        "csrc/cuda/tiling.hpp",
        "return static_cast<int>((longest + 3) / 4 * 4);",
        "return static_cast<int>(longest) - 1;",
    ),
    "coarse_weight_of_the_wrong_tap": (
        "csrc/cuda/search.cuh",
        "(i % 2 ? right.high : right.low)",
        "(i % 2 ? right.low : right.high)",
    ),
    "limit_too_low": (
        "csrc/cuda/row_lists.cuh",
        "lower_limit(row, reached);",
        "lower_limit(row, reached * 0.9f);",
    ),
    "certificate_never_fails": ("csrc/cuda/finish.cuh", "if (count != available && !(kth < bound)) {", "if (false) {"),
    "merge_forgets_the_last_split": (
        "csrc/cuda/finish.cuh",
        "for (int first = 0; first < p.splits * p.keep; first += 32) {",
        "for (int first = 0; first < p.splits * p.keep - p.keep; first += 32) {",
    ),
}


# The sm_90a search: several tiles for both warpgroups, more steps than stages, a ring that wraps, a ragged query tile.
SM90_CASE = Case("mutation_sm90", ((40, 60, 9), (270, 30, 5), (20, 15, 3)), images=2, kappa=2)
SM90_QUERY = Case("query", ((40, 12, 11), (270, 6, 6), (20, 3, 3)))
KERNEL = "csrc/cuda/search_sm90.cuh"

SM90_MUTANTS = {
    "operands_not_waited_for": ("    mbarrier_wait(barriers.full + stage, parity);\n", ""),
    "operands_waited_for_with_the_wrong_parity": (
        "mbarrier_wait(barriers.full + stage, parity);",
        "mbarrier_wait(barriers.full + stage, parity ^ 1u);",
    ),
    "stage_refilled_without_waiting": ("        mbarrier_wait(barriers.empty + stage, parity ^ 1u);\n", ""),
    "stage_waited_for_with_the_wrong_parity": (
        "mbarrier_wait(barriers.empty + stage, parity ^ 1u);",
        "mbarrier_wait(barriers.empty + stage, parity);",
    ),
    "stage_released_while_still_read": ("        product_wait<1>();  // the step before has been read\n", ""),
    "stage_released_by_three_of_four_warps": (
        "mbarrier_init(barriers.empty + stage, 4);",
        "mbarrier_init(barriers.empty + stage, 3);",
    ),
    "fewer_bytes_expected_than_come": (
        "mbarrier_arrive_expect(full, Share<Chunks>::query_bytes + group.stride * step_channels * 2);",
        "mbarrier_arrive_expect(full, Share<Chunks>::query_bytes);",
    ),
    "results_not_waited_for": ("    product_wait<0>();\n    product_pin(share.value[0]);", "    product_pin(share.value[0]);"),
    "no_fence_before_products": ("    product_fence();\n", ""),
    "first_product_adds_to_old_results": (
        "    sm90_multiply_step<Operand, Chunks>(shared, barriers, stage, parity, false, share);",
        "    sm90_multiply_step<Operand, Chunks>(shared, barriers, stage, parity, true, share);",
    ),
    "rows_of_the_operand_taken_in_sequence": (
        "even = operand_descriptor(pixels, 2048)",
        "even = operand_descriptor(pixels, 1024)",
    ),
    "channels_of_one_side_lag_behind": (
        "        query += operand_next_channels;\n",
        "        query += k == 2 ? 0 : operand_next_channels;\n",
    ),
    "accumulators_of_a_pair_exchanged": ("(v >> 1) * 2 + (i & 1)]", "(v >> 1) * 2 + 1 - (i & 1)]"),
    "accumulator_of_the_wrong_column": ("* 8 + (lane & 3) * 2 + (i & 1);", "* 8 + ((lane + 1) & 3) * 2 + (i & 1);"),
    "accumulator_of_the_wrong_row": ("32 * warp + 8 * v + (lane >> 2)", "32 * warp + 8 * (v ^ 1) + (lane >> 2)"),
    "tiles_multiplied_out_of_turn": ("        mbarrier_wait(barriers.multiply + consumer, turn);\n", ""),
    "tiles_finished_out_of_turn_after_finest_ones": ("        if (ahead) mbarrier_wait(barriers.finish + consumer, turn);\n", ""),
    "interpolated_before_the_coarse_tile_at_hand_is_stored": (
        "const bool ahead = c.finest() && before % max_groups == 0;",
        "const bool ahead = c.finest();",
    ),
    "ring_read_unrotated": ("in_ring(start + at, group)", "in_ring(start + (at ^ 1), group)"),
    "next_tile_s_pixels_stored_as_well": ("if (first + at >= end) continue;", "if (first + at >= pixels) continue;"),
    "ring_end_overlooked": ("right = in_ring(start + across.high, group)", "right = start + across.high"),
    "coarse_row_weighted_as_the_next": (
        "row == down.low ? down.low_weight : row == down.high ? down.high_weight",
        "row == down.low ? down.high_weight : row == down.high ? down.low_weight",
    ),
    "weight_of_a_neighbouring_pixel": ("warp_shuffle(own_weight, v)", "warp_shuffle(own_weight, v ^ 1)"),
    "place_of_a_neighbouring_pixel": ("own.first + v * own.apart", "own.first + (v ^ 1u) * own.apart"),
    "patch_from_the_neighbouring_column": ("(patch + w) % across * patch_width", "(patch + w + 1) % across * patch_width"),
}


def answers(engine, seed: int, ties: bool, sm90: bool):
    engine.set_seed(seed)
    # The sm_80 search with steps of 64 channels and of 32 in turn.
    engine.set_device(*((180_000, 2, True) if sm90 else (101376, 2) if seed % 2 else (110_000, 7)))
    case = SM90_CASE if sm90 else CASE
    query, gallery = pyramid(SM90_QUERY if sm90 else CASE, 1, 1), pyramid(case, case.images, 2)
    if ties:  # more nearly equal pixels than the margin holds
        query = [nearly_equal(level[:1, :, :1, :1].expand_as(level)) for level in query]
        gallery = [nearly_equal(level[:1, :, :1, :1].expand_as(level)) for level in gallery]
    # Without the redo, which would repair what a fault spoils; the counters tell what was not certified.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSPADE_CUDA_PATH", "sm90a" if sm90 else "sm80")
        distances, indices, counters = search_cuda(query, gallery, None, case.kappa, None, 1, False, engine=engine)
    shape = (1, *query[0].shape[2:], case.kappa)
    return distances.reshape(shape), indices.reshape(shape), counters.tolist(), query, gallery


def assert_sound(engine, sm90: bool = False) -> None:
    """An engine answers right and counts right, over several orders of threads."""
    if not sm90:
        uncertified = answers(engine, 0, True, sm90)[2][0]
        assert uncertified == CASE.levels[0][1] * CASE.levels[0][2], f"{uncertified} rows of ties not certified"
    for seed in (0, 1, 2, 3):
        distances, indices, counters, query, gallery = answers(engine, seed, False, sm90)
        assert counters[0] == 0, f"{counters[0]} rows not certified"
        assert_exact((distances, indices), query, gallery, CASE.kappa)


@pytest.mark.parametrize("sm90", [False, True], ids=["sm80", "sm90a"])
def test_the_kernels_as_they_are_have_no_fault(emulated, sm90):
    assert in_a_process_of_its_own(assert_sound, emulated, sm90) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found(name, tmp_path: Path):
    path, text, other = MUTANTS[name]
    assert in_a_process_of_its_own(assert_sound, build(tmp_path, {path: (text, other)}, COMPILED[path]))


def test_the_sm90_case_does_what_the_mutants_need(emulated):
    emulated.set_device(180_000, 2, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSPADE_CUDA_PATH", "sm90a")
        plan = plan_cuda(pyramid(SM90_QUERY, 1, 1), pyramid(SM90_CASE, SM90_CASE.images, 2), 2, 2, 1, engine=emulated)
    assert (
        plan["path"] == "sm90a"
        and plan["groups"] == 3
        and plan["stages"] < 5
        and plan["rings"][1] < 30 * 5
        and plan["strides"][1] < 128
    )
    assert plan["rings"][1] % 5 != 0  # wraps within a row


@pytest.mark.parametrize("name", SM90_MUTANTS)
def test_a_planted_fault_in_the_sm90_search_is_found(name, tmp_path: Path):
    assert in_a_process_of_its_own(assert_sound, build(tmp_path, {KERNEL: SM90_MUTANTS[name]}, SM90), True)
