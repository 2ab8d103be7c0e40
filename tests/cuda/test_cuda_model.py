"""benchmarks/cuda_model.py counts what docs/cuda_search.md derives by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="the tests do not run from a source checkout")


@pytest.fixture
def rows(emulated, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("FASTSPADE_CUDA_PATH", raising=False)
    import cuda_model

    return {(row["device"], row["form"]): row for row in cuda_model.model(emulated)}


def test_a_pair_multiplied_whole_costs_what_its_page_says(rows):
    whole = rows["H100", "whole"]
    assert round(whole["multiply_adds"]) == 491 and round(whole["l2_bytes"]) == 15 and round(whole["shared_bytes"]) == 23 + 11
    assert whole["binds"] == "second-level cache" and round(whole["milliseconds"], 1) == 1.2
    assert round(rows["A100", "whole"]["multiply_adds"]) == 491


def test_each_form_costs_less_than_the_one_before(rows):
    for device in ("A100", "H100", "L4"):
        for name in ("multiply_adds", "l2_bytes", "shared_bytes", "milliseconds"):
            assert rows[device, "whole"][name] > rows[device, "projections"][name] > rows[device, "native"][name]


def test_the_stored_figures_are_the_model_s(rows):
    stored = json.loads((BENCHMARKS / "results" / "cuda_model.json").read_text())["rows"]
    for row, found in zip(stored, rows.values(), strict=True):
        assert {name: pytest.approx(value) if isinstance(value, float) else value for name, value in row.items()} == found
