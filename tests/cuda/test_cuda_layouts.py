"""Every layout of the CUDA searches in a small case, on every engine; and that the sanitizers' runs reach all of them."""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import partial
from itertools import product

import pytest
import torch
from layout_cases import DEVICES, LAYOUT_CASES
from search_checks import assert_exact

from fastspade.errors import InputError
from fastspade.search.cpu import compiled_engine, search_cpu
from fastspade.search.cuda import plan_cuda, search_cuda

REFUSED = "the sm90a search was asked for, but its shared memory cannot hold"


def layout(plan) -> tuple[str, int, int, int, bool]:
    return plan["path"], plan["tile_rows"], plan["step_channels"], plan["stages"], plan["lists_on_chip"]


def planned(engine, case, device: str, multiprocessors: int):
    kernel, shared_bytes, _ = DEVICES[device]
    engine.set_device(shared_bytes, multiprocessors, kernel == "sm90a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSPADE_CUDA_PATH", kernel)
        query, gallery = case.sides(multiprocessors)
        return layout(plan_cuda(query, gallery, case.kappa, len(gallery[0]), 1, engine=engine))


def choosable(engine, kernel: str, multiprocessors: int) -> set[tuple]:
    """Every layout that the plan chooses on the engine's device, over many shapes."""
    found = set()
    widths, kappas = (2, 20, 35, *range(60, 500, 40), 680), (1, 16, 24, 32, 40, 50, 57, 64, 65, 200)
    shapes = product(widths, range(4), (1, 33, 65, 200), kappas, (1, 8, multiprocessors))
    for width, coarse, pixels, kappa, images in shapes:
        if kappa > images * 2 * width:
            continue
        gallery = [(8, 2, width), *((8, 1, width - g) for g in range(min(coarse, width - 1)))]
        query = [(8, 1, pixels)] * len(gallery)
        try:
            plan = engine.cuda_search_plan(
                device=0,
                gallery=gallery,
                images=images,
                upsample=1,
                bfloat16=False,
                query=query,
                query_images=1,
                slots=images,
                kappa=kappa,
                chosen=False,
                path={"sm80": 1, "sm90a": 2}[kernel],
            )
        except ValueError:  # not for the sm_90a search
            assert kernel == "sm90a"
        else:
            found.add(layout(plan))
    return found


def check(search, case, multiprocessors: int) -> None:
    query, gallery = case.sides(multiprocessors)
    distances, indices, counts = search(query, gallery, None, case.kappa, None, 1, True)
    shape = (len(query[0]), *query[0].shape[2:], case.kappa)
    assert counts[0] == 0  # nothing was left for the redo to repair
    assert_exact((distances.reshape(shape), indices.reshape(shape)), query, gallery, case.kappa)


def search_on_cpu(query, gallery, _, kappa, index, upsample, redo):
    distances, indices, _ = search_cpu(query, gallery, kappa, index, upsample)
    return distances, indices, [0]


def search_on_cuda(query, gallery, *rest):
    return search_cuda([level.cuda() for level in query], [level.cuda() for level in gallery], *rest)


@pytest.mark.parametrize("engine", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("case", LAYOUT_CASES, ids=lambda case: case.name)
def test_layout_matches_float64_brute_force(engine, case):
    if engine == "cpu":
        check(search_on_cpu, case, 2)
        return
    refused = os.environ.get("FASTSPADE_CUDA_PATH") == "sm90a" and not case.on_sm90a
    with pytest.raises(InputError, match=REFUSED) if refused else nullcontext():
        check(search_on_cuda, case, torch.cuda.get_device_properties(0).multi_processor_count)


def test_what_the_sm90a_search_refuses_is_known(emulated, monkeypatch):
    """So that a GPU's run with FASTSPADE_CUDA_PATH=sm90a knows what must be refused."""
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", "sm90a")
    emulated.set_device(232448, 132, True)
    for case in LAYOUT_CASES:
        query, gallery = case.sides(132)
        with nullcontext() if case.on_sm90a else pytest.raises(InputError, match=REFUSED):
            plan_cuda(query, gallery, case.kappa, len(gallery[0]), 1, engine=emulated)
    assert sum(not case.on_sm90a for case in LAYOUT_CASES) == 4


CASES_ON_DEVICES = [(case, device) for case in LAYOUT_CASES for device in case.devices.split()]


@pytest.mark.parametrize(("case", "device"), CASES_ON_DEVICES, ids=lambda x: getattr(x, "name", x))
def test_layout_matches_float64_brute_force_on_the_emulated_device(emulated, monkeypatch, case, device):
    kernel, shared_bytes, _ = DEVICES[device]
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", kernel)
    # Two multiprocessors are filled by fewer images, which the emulation likes; the layout is that of a whole device.
    assert planned(emulated, case, device, 2) == planned(emulated, case, device, DEVICES[device][2][0])
    emulated.set_device(shared_bytes, 2, kernel == "sm90a")
    emulated.set_seed(3)
    check(partial(search_cuda, engine=emulated), case, 2)


# -- which layouts there are, and that the cases for sanitizers reach them


@pytest.mark.parametrize(
    ("device", "multiprocessors"), [(name, count) for name, (*_, counts) in DEVICES.items() for count in counts]
)
def test_the_sanitizers_cases_reach_every_layout_that_a_device_can_have(emulated, device, multiprocessors):
    kernel, shared_bytes, _ = DEVICES[device]
    emulated.set_device(shared_bytes, multiprocessors, kernel == "sm90a")
    wanted = choosable(emulated, kernel, multiprocessors)
    # Tiles of three heights, two steps, two places for lists: 12; with 99 KB 128 queries leave no room for long steps. 32
    # queries with short steps and lists elsewhere never come up, because a gallery's rings leave room for long steps there.
    assert len(wanted) == {"99k": 9, "163k": 11, "227k": 11, "sm90a": 7}[device], sorted(wanted)
    cases = [case for case in LAYOUT_CASES if device in case.devices.split()]
    reached = [planned(emulated, case, device, multiprocessors) for case in cases]
    assert set(reached) == wanted and len(reached) == len(wanted)  # each by one case, for sanitizers are slow


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["sm80", "sm90a"])
def test_this_device_s_layouts_are_reached_too(kernel, monkeypatch):
    properties = torch.cuda.get_device_properties(0)
    if kernel == "sm90a" and (properties.major, properties.minor) != (9, 0):
        pytest.skip("the sm_90a search needs compute capability 9.0")
    monkeypatch.setenv("FASTSPADE_CUDA_PATH", kernel)
    device = kernel if kernel == "sm90a" else f"{properties.shared_memory_per_block_optin // 1024}k"
    assert device in DEVICES, (
        f"tests/support/layout_cases.py has no cases for {properties.shared_memory_per_block_optin} bytes of shared memory"
    )
    reached = set()
    for case in LAYOUT_CASES:
        if device in case.devices.split():
            query, gallery = ([level.cuda() for level in side] for side in case.sides(properties.multi_processor_count))
            reached.add(layout(plan_cuda(query, gallery, case.kappa, len(gallery[0]), 1)))
    assert reached == choosable(compiled_engine(), kernel, properties.multi_processor_count)
