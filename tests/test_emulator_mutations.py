"""The emulation would notice: planted faults in the CUDA kernels, each of which must make the parity check fail.

A fault may need a certain order of threads to show, so every mutant runs under several.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulator.build import build
from search_cases import Case, pyramid
from search_checks import assert_exact

from fastspade.search.cuda import search_cuda

CASE = Case("mutation", ((40, 18, 13), (70, 9, 7), (20, 4, 3)), images=3, kappa=2)

MUTANTS = {
    "query_fragment_row_off_by_one": ("csrc/cuda/tile.cuh", "warp_row + 16 * i + (lane & 15)", "warp_row + 16 * i + ((lane + 1) & 15)"),
    "gallery_fragment_halves_exchanged": ("csrc/cuda/tile.cuh", "2 * k + ((lane >> 3) & 1)", "2 * k + 1 - ((lane >> 3) & 1)"),
    "wrong_column_of_the_fragment": ("csrc/cuda/search.cuh", "const int pixel = use.first + warp_column + (j >> 1) * 8 + (lane & 3) * 2 + (j & 1);", "const int pixel = use.first + warp_column + (j >> 1) * 8 + (lane & 3) * 2 + 1 - (j & 1);"),
    "swizzle_forgotten_on_one_side": ("csrc/cuda/tile.cuh", "copy_async(stage + place(row, piece), query", "copy_async(stage + row * row_bytes + (piece << 4), query"),
    "no_barrier_before_the_copy_overwrites_a_stage": ("csrc/cuda/search.cuh", "            block_barrier();\n            start_copy(stage == 0", "            start_copy(stage == 0"),
    "no_barrier_before_the_epilogue": ("csrc/cuda/search.cuh", "            block_barrier();  // columns and rings are complete\n", ""),
    "copies_waited_for_one_step_late": ("csrc/cuda/search.cuh", "copy_wait<pipeline_stages - 2>();", "copy_wait<pipeline_stages - 1>();"),
    "ring_one_column_short": ("csrc/cuda/tiling.hpp", "return static_cast<int>((longest + 3) / 4 * 4);", "return static_cast<int>(longest) - 1;"),
    "coarse_weight_of_the_wrong_tap": ("csrc/cuda/search.cuh", "(i % 2 ? right.high : right.low)", "(i % 2 ? right.low : right.high)"),
    "limit_too_low": ("csrc/cuda/row_lists.cuh", "const float reached = key_value(last);", "const float reached = key_value(last) * 0.9f;"),
    "certificate_never_fails": ("csrc/cuda/finish.cuh", "if (count != p.pairs && !(kth < bound)) {", "if (false) {"),
    "merge_forgets_the_last_split": ("csrc/cuda/finish.cuh", "for (int first = 0; first < p.splits * p.keep; first += 32) {", "for (int first = 0; first < p.splits * p.keep - p.keep; first += 32) {"),
}


def answers(engine, seed: int, ties: bool):
    engine.set_seed(seed)
    engine.set_device(101376, 2)
    query, gallery = pyramid(CASE, 1, 1), pyramid(CASE, CASE.images, 2)
    if ties:  # more equal pixels than the margin holds
        query = [level[:, :, :1, :1].expand(-1, -1, *level.shape[2:]).contiguous() for level in query]
        gallery = [level[:, :, :1, :1].expand(-1, -1, *level.shape[2:]).contiguous() for level in gallery]
    # Without the redo, which would repair what a fault spoils; the counters tell what was not certified.
    distances, indices, counters = search_cuda(query, gallery, None, CASE.kappa, None, 1, False, engine=engine)
    shape = (1, *CASE.levels[0][1:], CASE.kappa)
    return distances.reshape(shape), indices.reshape(shape), counters.tolist(), query, gallery


def faults(engine) -> list[str]:
    """What is wrong with an engine, over several orders of threads; empty for a sound one."""
    try:
        uncertified = answers(engine, 0, ties=True)[2][0]
        assert uncertified == CASE.levels[0][1] * CASE.levels[0][2], f"{uncertified} rows of ties not certified"
        for seed in (0, 1, 2, 3):
            distances, indices, counters, query, gallery = answers(engine, seed, ties=False)
            assert counters[0] == 0, f"{counters[0]} rows not certified"
            assert_exact((distances, indices), query, gallery, CASE.kappa)
    except Exception as error:  # wrong answers and whatever the machine itself noticed
        return [f"{type(error).__name__}: {error}"[:200]]
    return []


def test_the_kernels_as_they_are_have_no_fault(emulated):
    assert faults(emulated) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found(name, tmp_path: Path):
    path, text, other = MUTANTS[name]
    assert faults(build(tmp_path, {path: (text, other)}))
