"""Search calls written as JSON: made by test_fuzz_engine.py, kept in corpus/, and judged here against float64 brute force.

A case is a dictionary:

    {"call": "pyramid_knn", "library": "torch", "query": [TENSOR, ...], "gallery": [TENSOR, ...], "kappa": 3,
     "gallery_index": {"values": [[0, 1]], "dtype": "int64", "layout": "plain"}, "upsample": "bilinear"}

where "call" may be "knn" (one TENSOR per side, no index, no upsample) and "library" "numpy". A TENSOR is

    {"shape": [2, 3, 8, 8], "dtype": "float32", "order": [0, 1, 2, 3], "steps": [1, 1, 1, 1], "shift": 0, "values": "normal",
     "seed": 1}

order: the axes as they lie in memory, outermost first. steps: of each axis, in units of what lies inside it; 0 repeats one
element, and negative ones (numpy) run backwards. shift: bytes before the first element, so that odd ones misalign it.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from search_checks import assert_exact

from fastspade import knn, pyramid_knn
from fastspade.errors import FastspadeError
from fastspade.search.validation import DTYPES

Case = dict[str, Any]
Array = Any  # torch.Tensor or numpy.ndarray
SCALES = {"normal": 1.0, "large": 1e15, "tiny": 1e-15, "shifted": 1.0, "whole": 1.0, "nan": 1.0, "inf": 1.0, "nan_last": 1.0}


def values(spec: Case) -> torch.Tensor:
    """What a tensor holds, float32 or as its type has it; "whole" numbers make ties, "nan_last" is in the last image only."""
    generator = torch.Generator().manual_seed(spec["seed"])
    kind = spec["values"]
    numbers = torch.randn(spec["shape"], generator=generator) * SCALES[kind]
    if kind == "shifted":
        numbers += 100.0
    if kind == "whole":
        numbers = numbers.round()
    if kind in ("nan", "inf", "nan_last") and numbers.numel():
        place = int(torch.randint(numbers.numel(), (1,), generator=generator)) if kind != "nan_last" else numbers.numel() - 1
        numbers.view(-1)[place] = math.inf if kind == "inf" else math.nan
    return numbers.to(getattr(torch, spec["dtype"]))


def placed(spec: Case, library: str) -> Array:
    """The tensor in memory of its own, laid out as it says, all other bytes 0xff (NaN where they make a float)."""
    shape, numbers = spec["shape"], values(spec)
    strides, extent = [0] * len(shape), 1
    for axis in reversed(spec["order"]):
        step = spec["steps"][axis]
        strides[axis] = extent * (step if library == "numpy" else abs(step))
        extent *= max(1, shape[axis] * abs(step))
    # A repeated axis holds what its first element does.
    numbers = numbers[
        tuple(slice(1) if stride == 0 and size else slice(None) for stride, size in zip(strides, shape, strict=True))
    ]
    first = -sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True) if stride < 0 and size)
    size, shift = numbers.element_size(), spec["shift"]
    memory = np.full(shift + (extent + 1) * size, 0xFF, np.uint8)
    if library == "numpy":
        bits = np.ndarray(shape, f"V{size}", memory, shift + first * size, [stride * size for stride in strides])
        dense = numbers.reshape(-1).clone(memory_format=torch.contiguous_format)
        bits[...] = dense.view(torch.uint8).numpy().view(f"V{size}").reshape(numbers.shape)
        return bits.view(np.dtype(spec["dtype"]))
    tensor = torch.frombuffer(memory, dtype=numbers.dtype, offset=shift).as_strided(shape, strides)
    if tensor.numel():
        tensor[tuple(slice(1) if stride == 0 else slice(None) for stride in strides)] = numbers
    return tensor


def placed_index(spec: Case, library: str) -> Array:
    tensor = torch.tensor(spec["values"], dtype=torch.float64).to(getattr(torch, spec["dtype"]))
    if spec["layout"] == "transposed" and tensor.ndim == 2:
        tensor = tensor.t().contiguous().t()
    if spec["layout"] == "odd":
        memory = np.full(3 + tensor.numel() * tensor.element_size(), 0xFF, np.uint8)
        memory[3:] = tensor.flatten().view(torch.uint8).numpy()
        if tensor.numel():
            tensor = torch.frombuffer(memory, dtype=tensor.dtype, offset=3).reshape(tensor.shape)
    return tensor if library == "torch" else tensor.numpy()


def plain(spec: Case, library: str) -> torch.Tensor:
    """The tensor's values, laid out plainly."""
    array = placed(spec, library)
    if library == "numpy":
        return torch.from_numpy(np.array(array, order="C"))
    return array.clone(memory_format=torch.contiguous_format)


def must_succeed(case: Case) -> bool | None:
    """Whether the documentation promises an answer; None where it leaves it open: bad values in images not searched."""
    sides, pyramids = [case["query"], case["gallery"]], case["call"] == "pyramid_knn"
    axes = 4 if pyramids else 2
    for side in sides:
        if not side or any(len(t["shape"]) != axes or 0 in t["shape"] or not hasattr(torch, t["dtype"]) for t in side):
            return False
        if any(getattr(torch, t["dtype"]) not in DTYPES for t in side):
            return False
        shapes = [t["shape"] for t in side]
        if any(a[0] != b[0] or b[2] > a[2] or b[3] > a[3] for a, b in zip(shapes, shapes[1:], strict=False)):
            return False
    if [t["shape"][1:] for t in sides[0]] != [t["shape"][1:] for t in sides[1]]:
        return False
    if pyramids and case["upsample"] not in ("nearest", "bilinear"):
        return False
    queries, images = sides[0][0]["shape"][0], sides[1][0]["shape"][0]
    seen = images
    if case["gallery_index"] is not None:
        rows, dtype = case["gallery_index"]["values"], case["gallery_index"]["dtype"]
        if dtype not in ("int32", "int64") or len(rows) != queries or not rows or not isinstance(rows[0], list) or not rows[0]:
            return False
        if not all(0 <= chosen < images for row in rows for chosen in row):
            return False
        seen = len(rows[0])
    available = seen * math.prod(sides[0][0]["shape"][2:]) if pyramids else images
    kappa = case["kappa"]
    if isinstance(kappa, bool) or not isinstance(kappa, int) or not 1 <= kappa <= available:
        return False
    searched = list(range(images)) if case["gallery_index"] is None else sorted({i for row in rows for i in row})
    read = [plain(t, case["library"]) for t in sides[0]] + [plain(t, case["library"])[searched] for t in sides[1]]
    if not all(torch.isfinite(level).all() for level in read):
        return False
    return True if all(torch.isfinite(plain(t, case["library"])).all() for t in sides[1]) else None


def judge(case: Case) -> str:
    """Runs a case. "answer": the float64 reference's; "refused": by a FastspadeError. All else is an AssertionError."""
    promised, library, text = must_succeed(case), case["library"], json.dumps(case)
    query, gallery = ([placed(spec, library) for spec in case[side]] for side in ("query", "gallery"))
    try:
        if case["call"] == "knn":
            distances, indices = knn(query[0], gallery[0], case["kappa"])
        else:
            index = None if case["gallery_index"] is None else placed_index(case["gallery_index"], library)
            distances, indices = pyramid_knn(query, gallery, case["kappa"], gallery_index=index, upsample=case["upsample"])
    except FastspadeError as error:
        assert promised is not True, f"{type(error).__name__}: {error}\n{text}"
        return "refused"
    assert promised is not False, f"an answer to what cannot be answered\n{text}"
    assert type(distances) is type(indices) is (torch.Tensor if library == "torch" else np.ndarray), text
    try:
        compare(case, torch.as_tensor(distances), torch.as_tensor(indices))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{text}") from None
    return "answer"


def compare(case: Case, distances: torch.Tensor, indices: torch.Tensor) -> None:
    query, gallery = ([plain(spec, case["library"]) for spec in case[side]] for side in ("query", "gallery"))
    index, upsample = None, case["upsample"]
    if case["call"] == "knn":
        query, gallery = ([side[0][:, :, None, None]] for side in (query, gallery))  # images of one pixel
        distances, indices, upsample = distances[:, None, None], indices[:, None, None], "nearest"
    elif case["gallery_index"] is not None:
        index = torch.tensor(case["gallery_index"]["values"])
    if not all(torch.isfinite(level).all() for level in gallery):  # in images that are not searched
        gallery = [level.nan_to_num(0.0, 0.0, 0.0) for level in gallery]
    assert_exact((distances, indices), query, gallery, case["kappa"], gallery_index=index, upsample=upsample)
