"""Search calls drawn at random: an answer equal to float64 brute force or a FastspadeError, and nothing else ever.

Every run draws the same calls. FASTSPADE_FUZZ=20000 draws that many others; a failure prints its case as JSON, which is
kept as told in corpus/README.md.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import fuzz_cases
import pytest
import torch
from fuzz_cases import SCALES, Case, judge
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastspade import knn, pyramid_knn
from fastspade.errors import InputError

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))
ASKED = int(os.environ.get("FASTSPADE_FUZZ", "0"))
CALLS = 1200
FUZZ = settings(
    max_examples=ASKED or CALLS,
    derandomize=not ASKED,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
GOOD, BAD = ["float32", "float16", "bfloat16"], ["float64", "int64", "uint8", "bool", "complex64"]
ODD_KAPPA = [0, -1, 2**31, 2**63 - 1, 2**63, 2**80, -(2**70), True, None, 1.0, "1"]


def rarely(draw: st.DrawFn) -> bool:
    return draw(st.integers(0, 19)) == 19


@st.composite
def tensors(draw: st.DrawFn, shape: list[int], library: str, plainly: bool) -> Case:
    if rarely(draw):
        shape = draw(st.lists(st.integers(0, 4), max_size=5)) if draw(st.booleans()) else list(shape)
        if shape and draw(st.booleans()):
            shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(0, 9))
    rank = len(shape)
    dtype = draw(st.sampled_from(GOOD[:2] if library == "numpy" else GOOD))
    if rarely(draw):
        dtype = draw(st.sampled_from(BAD))
    steps = st.sampled_from([1, 1, 1, 2, 3, 0] + ([-1, -2] if library == "numpy" else []))
    kinds = ["normal", "normal", "normal", "whole", "shifted"]
    if rarely(draw):
        kinds = sorted(SCALES)
    return {
        "shape": list(shape),
        "dtype": dtype,
        "order": list(range(rank)) if plainly else draw(st.permutations(range(rank))),
        "steps": [1] * rank if plainly else [draw(steps) for _ in range(rank)],
        "shift": draw(st.sampled_from([0, 0, 1, 2, 3, 4, 7])),
        "values": draw(st.sampled_from(kinds)),
        "seed": draw(st.integers(0, 999)),
    }


@st.composite
def indices(draw: st.DrawFn, queries: int, images: int) -> Case:
    places = st.integers(0, images - 1)
    if rarely(draw):
        places = st.sampled_from([0, -1, images, 2**31 - 1, -(2**31)])
    width = draw(st.integers(1, 5)) if not rarely(draw) else draw(st.sampled_from([0, 40]))
    if rarely(draw):
        queries += draw(st.sampled_from([-1, 1]))
    return {
        "values": [[draw(places) for _ in range(width)] for _ in range(queries)],
        "dtype": draw(st.sampled_from(["int64", "int64", "int32"] if not rarely(draw) else ["float32", "int16", "bool"])),
        "layout": draw(st.sampled_from(["plain", "transposed", "odd"])),
    }


@st.composite
def cases(draw: st.DrawFn) -> Case:
    call = draw(st.sampled_from(["pyramid_knn", "pyramid_knn", "knn"]))
    library = draw(st.sampled_from(["torch", "numpy"]))
    plainly = draw(st.booleans())
    queries, images = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    shapes, pixels = [], images
    if call == "knn":
        queries, images = draw(st.integers(1, 60)), draw(st.integers(1, 90))
        shapes, pixels = [[draw(st.integers(1, 70))]], images
    else:
        height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        pixels = images * height * width
        for _ in range(draw(st.integers(1, 4)) if not rarely(draw) else draw(st.sampled_from([0, 9]))):
            shapes.append([draw(st.integers(1, 40)), height, width])
            height, width = draw(st.integers(1, height)), draw(st.integers(1, width))
    index = draw(indices(queries, images)) if call == "pyramid_knn" and draw(st.booleans()) else None
    if index is not None:
        pixels = pixels // images * len((index["values"] or [[]])[0])
    kappa = draw(st.integers(1, max(1, min(pixels, draw(st.sampled_from([1, 5, 64, 400]))))))
    if rarely(draw):
        kappa = draw(st.sampled_from([*ODD_KAPPA, pixels, pixels + 1]))
    return {
        "call": call,
        "library": library,
        "query": [draw(tensors([queries, *shape], library, plainly)) for shape in shapes],
        "gallery": [draw(tensors([images, *shape], library, plainly)) for shape in shapes],
        "kappa": kappa,
        "gallery_index": index,
        "upsample": draw(st.sampled_from(["bilinear", "nearest"] if not rarely(draw) else ["", "area", "Bilinear"])),
    }


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_kept_case(path):
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert judge(kept["case"]) == kept["outcome"]


SPOILT = {
    "distances": lambda found: (found[0] * 1.0001, found[1]),
    "indices": lambda found: (found[0], found[1].flip(-1)),
    "order": lambda found: (found[0].flip(-1), found[1].flip(-1)),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_wrong_answer_is_seen(what, monkeypatch):
    kept = json.loads((Path(__file__).parent / "corpus" / "transposed_vectors.json").read_text(encoding="utf-8"))
    monkeypatch.setattr(fuzz_cases, "knn", lambda *arguments: SPOILT[what](knn(*arguments)))
    with pytest.raises(AssertionError):
        judge(kept["case"])


@pytest.mark.slow
def test_drawn_calls(record_fault):
    outcomes = {"answer": 0, "refused": 0}

    @FUZZ
    @given(case=cases())
    def fuzz(case: Case) -> None:
        outcomes[judge(case)] += 1

    fuzz()
    print(outcomes)
    assert min(outcomes.values()) > CALLS // 10 and sum(outcomes.values()) >= FUZZ.max_examples
    if not ASKED:
        record_fault(
            "search calls with drawn shapes, strides, alignments, element types, values, kappa and gallery_index (hypothesis)",
            CALLS,
            "the answer of float64 brute force, or a FastspadeError where an argument is wrong",
        )


HUGE = {
    "rows": lambda one: knn(one.expand(2**58, 1), torch.ones(3, 1), 2),
    "rows and neighbours": lambda one: knn(one.expand(2**61, 1), torch.ones(9, 1), 9),
    "vectors": lambda one: knn(torch.ones(2, 1), one.expand(2**40, 1), 1),
    "channels": lambda one: knn(one.expand(2, 2**40), one.expand(3, 2**40), 1),
    "pixels": lambda one: pyramid_knn([one.expand(1, 1, 2**31, 2**31)], [one.expand(1, 1, 2**31, 2**31)], 1),
    "kappa": lambda one: knn(one.expand(2**30, 1), one.expand(2**30, 1), 2**30),
    "images": lambda one: pyramid_knn([torch.ones(1, 1, 1, 1)], [one.expand(2**60, 1, 1, 1)], 1),
}


@pytest.mark.parametrize("what", HUGE)
def test_views_of_one_number_as_large_as_torch_allows(what, record_fault):
    with pytest.raises(InputError):
        HUGE[what](torch.ones(1))
    record_fault("views that repeat one number 2^30 to 2^62 times, given as a query or gallery", 1, "InputError")
