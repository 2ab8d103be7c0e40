"""Planted faults in the bounds by projections, and in what refines them: a bound too tight by a hundredth is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulated_engine import build, kernels_of, searches
from planted_faults import in_a_process_of_its_own
from projected_features import DEVICES, copies, low_rank, real

from fastspade.search.cpu import search_cpu
from fastspade.search.cuda import prepare_gallery_cuda, search_cuda

pytestmark = pytest.mark.slow  # compiles an engine for every planted fault

PROJECT, LISTS = "csrc/cuda/project.cuh", "csrc/cuda/row_lists.cuh"
SEARCH = searches(
    *(f"template void search_kernel<{operand}, 4, 64>(const SearchParameters);" for operand in ("HalfOperand", "BFloat16Operand"))
)
COMPILED = {PROJECT: {"changed": kernels_of("project.cuh")}, LISTS: {"changed": SEARCH}}
MUTANTS = {
    "first_bound_too_tight": (
        PROJECT,
        "first_bits = rounded_up_operand(p, rest(first))",
        "first_bits = to_operand(p, rest(first) / 1.01)",
    ),
    "last_bound_too_tight": (
        PROJECT,
        "last_bits = rounded_up_operand(p, rest(all))",
        "last_bits = to_operand(p, rest(all) / 1.01)",
    ),
    "first_rest_forgotten": (PROJECT, "if (j == first_rest) bits = first_bits", "if (j == first_rest) bits = 0"),
    "first_rest_not_taken_back": (PROJECT, "if (j == turned_rest) bits =", "if (j == turned_rest) bits = 0 &"),
    "last_rest_forgotten": (PROJECT, "if (j == last_rest) bits = last_bits", "if (j == last_rest) bits = 0"),
    "rounding_forgotten": (PROJECT, "error = (sqrt(warp_sum(error)) + off) * up", "error = 0.0"),
    "a_level_mixed_by_its_last_tap": (PROJECT, "along[4 * half + i] += weight *", "along[4 * half + i] = weight *"),
    "a_channel_not_projected": (PROJECT, "for (int k = 0; k < channels; ++k) {", "for (int k = 1; k < channels; ++k) {"),
    "refined_bound_too_tight": (
        LISTS,
        "make_key(key_value(key) - 2.0f * at.ratio",
        "make_key(1.01f * key_value(key) - 2.02f * at.ratio",
    ),
    "refined_again": (LISTS, "begin = tallies[row].refined", "begin = 0"),
    "limit_without_the_rests": (LISTS, "products = query.length * gallery.length +", "products ="),
    "limit_without_a_margin": (LISTS, "4.0f * at.ratio * products", "0.0f * at.ratio * products"),
    "limit_of_a_neighbour_too_few": (
        LISTS,
        "for (int i = lane; i < p.kappa; i += 32) {",
        "for (int i = lane; i < p.kappa / 2; i += 32) {",
    ),
}
# Features, kappa, bfloat16, and pairs that are ranked of a row.
SEARCHES = (
    (copies(), 1, False, 5),
    (copies(250), 1, False, 5),
    (copies(), 5, False, 8),
    (real(6), 5, False, 9),
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
            prepared = prepare_gallery_cuda(gallery, 1, bfloat16, engine)
            found = search_cuda(query, gallery, prepared, kappa, None, 1, False, bfloat16, engine, check=False)
            assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
            uncertain, exact, *_, fine = found[2].tolist()
            assert uncertain == 0 and exact <= ranked * len(found[0]), (uncertain, exact / len(found[0]))
            assert fine < 0.6 * len(found[0]) * gallery[0][:, 0].numel()  # projections were searched


def test_the_kernels_as_they_are_have_no_fault(emulated):
    assert in_a_process_of_its_own(assert_sound, emulated) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found(name, tmp_path: Path):
    path, text, other = MUTANTS[name]
    assert in_a_process_of_its_own(assert_sound, build(tmp_path, {path: (text, other)}, COMPILED[path]))
