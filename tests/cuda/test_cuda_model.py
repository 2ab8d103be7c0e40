"""benchmarks/cuda_model.py counts what docs/cuda_search.md derives by hand, from the instructions in its stored figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from machine_code import cuobjdump

from fastspade.search.cpu import compiled_engine
from fastspade.search.cuda import has_cuda_engine

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="the tests do not run from a source checkout")


@pytest.fixture
def stored():
    return json.loads((BENCHMARKS / "results" / "cuda_model.json").read_text())


@pytest.fixture
def cuda_model(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("FASTSPADE_CUDA_PATH", raising=False)
    import cuda_model

    return cuda_model


@pytest.fixture
def rows(emulated, cuda_model, stored):
    return {(row["device"], row["form"]): row for row in cuda_model.model(emulated, stored["instructions"])}


def test_a_pair_multiplied_whole_costs_what_its_page_says(rows):
    whole = rows["H100", "whole"]
    assert round(whole["multiply_adds"]) == 491 and round(whole["l2_bytes"]) == 15 and round(whole["shared_bytes"]) == 23 + 11
    assert whole["binds"] == "second-level cache" and round(whole["milliseconds"], 1) == 1.1
    assert round(rows["A100", "whole"]["multiply_adds"]) == 491


def test_projections_take_less_time(rows):
    for device in ("A100", "H100", "L4"):
        assert rows[device, "projections"]["milliseconds"] < 0.75 * rows[device, "whole"]["milliseconds"]


def test_the_stored_figures_are_the_model_s(rows, stored):
    for row, found in zip(stored["rows"], rows.values(), strict=True):
        assert row.pop("times") == pytest.approx(found.pop("times"))
        assert {name: pytest.approx(value) if isinstance(value, float) else value for name, value in row.items()} == found


@pytest.mark.parametrize("others", [{}, {"80": ["search_kernelIN11HalfOperandELi4ELi64EE of 80"]}], ids=["one", "two"])
def test_an_engine_built_for_one_architecture_has_its_instructions_counted(cuda_model, monkeypatch, others):
    hopper = ["search_sm90_kernelINS0_11HalfOperandELi3EEE of 90a", "finish_kernel of 90a"]
    code = {"90": ["search_kernelIN11HalfOperandELi4ELi64EE of 90", "search_kernelIN15BFloat16OperandELi4ELi64EE of 90"]}
    monkeypatch.setattr(cuda_model, "dumped", lambda *_: {**code, "90a": list(hopper), **others})
    monkeypatch.setattr(cuda_model, "main_loop", lambda text: text.split()[-1])
    assert cuda_model.instructions_of("") == {"sm80 128 64": "80" if others else "90", "sm90a 96 64": "90a"}


@pytest.mark.slow
@pytest.mark.skipif(not has_cuda_engine(), reason="this build of fastspade has no CUDA engine")
def test_the_stored_instructions_are_about_the_machine_code_s(cuda_model, stored):
    """Another compiler may need some more or less."""
    if cuobjdump() is None:
        pytest.skip("no cuobjdump")
    found = cuda_model.instructions_of(compiled_engine().__file__)
    assert found.keys() == stored["instructions"].keys()
    for kernel, parts in stored["instructions"].items():
        work = [sum(sum(classes.values()) for name, classes in one.items() if name != "rare") for one in (parts, found[kernel])]
        assert work[1] == pytest.approx(work[0], rel=0.15), kernel
        assert found[kernel]["products"]["matrix"] == parts["products"]["matrix"]
