"""Planted faults in the bounds by projections, and in what refines them: a bound too tight by a hundredth is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulated_engine import build, kernels_of, searches
from planted_faults import in_a_process_of_its_own
from projected_features import DEVICES, copies, low_rank

from fastspade.search.cpu import search_cpu
from fastspade.search.cuda import search_cuda

pytestmark = pytest.mark.slow  # compiles an engine for every planted fault

PROJECT, LISTS, TILE = "csrc/cuda/project.cuh", "csrc/cuda/row_lists.cuh", "csrc/cuda/tile.cuh"
SEARCH = searches(
    *(f"template void search_kernel<{operand}, 4, 64>(const SearchParameters);" for operand in ("HalfOperand", "BFloat16Operand"))
)
COMPILED = {PROJECT: {"changed": kernels_of("project.cuh")}, LISTS: {"changed": SEARCH}, TILE: {"changed": SEARCH}}
MUTANTS = {
    "bound_by_projections_too_tight": (PROJECT, "0x1p-32 * norm) * (1.0 + 0x1p-20);", "0x1p-32 * norm) / 1.01;"),
    "last_channels_not_multiplied": (TILE, "if (k * 16 >= channels)", "if (k * 16 + 16 >= channels)"),
    "rest_forgotten": (PROJECT, "const double wanted = lane == last_projected ? rest", "const double wanted = lane == 31 ? 0.0"),
    "directions_not_orthogonal": (PROJECT, "for (int i = 0; i < j; ++i) value", "for (int i = 0; i < j - 1; ++i) value"),
    "refined_bound_too_tight": (LISTS, "make_key(key_value(key) + 2.0f", "make_key(1.01f * key_value(key) + 2.02f"),
    "refined_without_taking_off_what_was_multiplied": (
        LISTS,
        "group_product(p, projected_group, query_row, image, tap, lane) -",
        "-",
    ),
    "limit_without_a_margin": (LISTS, "const float above = 4.0f * ratio * slack", "const float above = 0.0f * ratio * slack"),
    "limit_of_a_neighbour_too_few": (LISTS, "key_value(list[p.kappa - 1])", "key_value(list[p.kappa / 2])"),
}
# Features, kappa, bfloat16, and pairs that are ranked of a row.
SEARCHES = (
    (copies(), 1, False, 5),
    (copies(), 5, False, 8),
    (low_rank(((130, 13, 17), (40, 7, 9), (20, 4, 5)), 3), 20, True, 22),
)


def assert_sound(engine) -> None:
    """An engine answers right and counts right."""
    engine.set_device(*DEVICES["sm80"][1])
    engine.set_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSPADE_CUDA_PATH", "sm80")
        for (query, gallery), kappa, bfloat16, ranked in SEARCHES:
            expected = search_cpu(query, gallery, kappa, None, 1)
            found = search_cuda(query, gallery, None, kappa, None, 1, False, bfloat16, engine, check=False)
            assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
            uncertain, exact, *_ = found[2].tolist()
            assert uncertain == 0 and exact <= ranked * len(found[0]), (uncertain, exact / len(found[0]))


def test_the_kernels_as_they_are_have_no_fault(emulated):
    assert in_a_process_of_its_own(assert_sound, emulated) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found(name, tmp_path: Path):
    path, text, other = MUTANTS[name]
    assert in_a_process_of_its_own(assert_sound, build(tmp_path, {path: (text, other)}, COMPILED[path]))
