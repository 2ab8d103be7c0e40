"""What only the CPU engine has: instruction sets chosen at run time, and several ways through a search of plain vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_outputs import SIMD, vectors

import fastspade
from fastspade import knn, pyramid_knn
from fastspade.errors import InputError
from fastspade.search import reference


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return outputs(tmp_path_factory.mktemp("here"), {})


def outputs(folder, environment):
    """What engine_outputs.py computes in a process of its own; None where the instruction set is not to be had."""
    out = folder / "found.pt"
    script = str(Path(__file__).parents[1] / "programs" / "engine_outputs.py")
    ended = subprocess.run([sys.executable, script, str(out)], env={**os.environ, **environment}, check=False)
    if ended.returncode == 3:
        return None
    assert ended.returncode == 0
    return torch.load(out)


@pytest.mark.slow
@pytest.mark.parametrize("simd", SIMD)
def test_every_instruction_set_gives_the_same_bits(simd, here, tmp_path):
    found = outputs(tmp_path, {"FASTSPADE_SIMD": simd})
    if found is None:
        pytest.skip(f"this processor or build has no {simd} kernels")
    assert len(found) == len(here)
    for a, b in zip(found, here, strict=True):
        assert torch.equal(a, b)


# Up to one tile of queries the gallery is streamed as it lies; beyond it both sides are laid out for the product kernels.
FEW_AND_MANY = pytest.mark.parametrize("queries", [1, 2, 3, 5, 16, 31, 100])


@FEW_AND_MANY
@pytest.mark.parametrize(("count", "channels"), [(1, 1), (3, 5), (70, 16), (301, 33), (1000, 131)])
@pytest.mark.parametrize("kappa", [1, 7])
def test_knn_of_few_and_many_queries(queries, count, channels, kappa):
    query, gallery = vectors(queries, channels, 1), vectors(count, channels, 2)
    kappa = min(kappa, count)
    distances, indices = knn(query, gallery, kappa)
    wanted, places = reference.knn(query, gallery, kappa)
    assert torch.allclose(distances.double(), wanted, rtol=1e-5)
    assert torch.equal(indices, places)


@FEW_AND_MANY
@pytest.mark.parametrize("kappa", [1, 4, 40])
def test_knn_orders_what_float32_cannot_tell_apart(queries, kappa):
    # Multiples of 2^-12 below 2: float64 sums of their squares are exact, float32 sums depend on the order. Rows are
    # shuffles of a few vectors, some moved by one step, so that true ties and differences beyond float32 abound.
    generator = torch.Generator().manual_seed(kappa)
    base = torch.randint(4096, 8192, (3, 64), generator=generator)
    rows = torch.stack([base[i % 3][torch.randperm(64, generator=generator)] for i in range(3000)])
    rows[torch.arange(3000), torch.randint(64, (3000,), generator=generator)] += torch.randint(
        -1, 2, (3000,), generator=generator
    )
    gallery = rows / 4096.0
    query = torch.zeros(queries, 64)
    distances, indices = knn(query, gallery, kappa)
    wanted, places = reference.knn(query, gallery, kappa)
    assert torch.equal(indices, places)
    assert torch.equal(distances, wanted.float())


@FEW_AND_MANY
@pytest.mark.parametrize("kappa", [1, 3, 100])
def test_knn_ties_fall_to_the_lower_index(queries, kappa):
    gallery = torch.full((20_000, 8), 0.5)
    gallery[:50] = 7.0
    distances, indices = knn(torch.zeros(queries, 8), gallery, kappa)
    assert torch.equal(indices, torch.arange(50, 50 + kappa).expand(queries, kappa))
    assert (distances == 2.0).all()


@FEW_AND_MANY
@pytest.mark.parametrize("threads", [1, 3])
def test_knn_does_not_depend_on_threads_or_strides(queries, threads):
    query, gallery = vectors(queries, 24, 1), vectors(2000, 24, 2)
    wanted = knn(query, gallery, 5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for change in (lambda t: t, lambda t: t.t().contiguous().t(), lambda t: t.repeat_interleave(2, dim=0)[::2]):
            found = knn(change(query), change(gallery), 5)
            assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
    finally:
        torch.set_num_threads(before)


@FEW_AND_MANY
@pytest.mark.parametrize("spread", [1e-22, 1e-12, 1e12, 1e18])
def test_knn_at_the_ends_of_float32(queries, spread):
    query, gallery = vectors(queries, 12, 1) * spread, vectors(400, 12, 2) * spread
    distances, indices = knn(query, gallery, 3)
    wanted, places = reference.knn(query, gallery, 3)
    assert torch.equal(indices, places)
    assert torch.allclose(distances, wanted.float(), rtol=1e-5, atol=0.0)


@FEW_AND_MANY
def test_overflow_hides_nothing(queries):
    query, gallery = vectors(queries, 8, 1), vectors(300, 8, 2)
    gallery[7] = 3e37
    query[0] = 3e37
    distances, indices = knn(query, gallery, 1)
    wanted, places = reference.knn(query, gallery, 1)
    assert torch.equal(indices, places)
    assert torch.allclose(distances, wanted.float(), rtol=1e-5)
    with pytest.raises(InputError, match="float32"):  # the second nearest is out of reach
        knn(query, gallery, 2)


@FEW_AND_MANY
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_non_finite_vectors_are_refused(queries, bad, side):
    data = {"query": vectors(queries, 20, 1), "gallery": vectors(3000, 20, 2)}
    data[side][-1, 17] = bad
    with pytest.raises(fastspade.FastspadeError, match=side):
        knn(data["query"], data["gallery"], 1)


@FEW_AND_MANY
def test_vectors_at_distances_equal_in_float32_are_ties(queries):
    gallery = torch.stack([torch.ones(200), torch.linspace(1e-5, 0, 200)], dim=1)
    distances, indices = knn(torch.zeros(queries, 2), gallery, 7)
    assert (distances == 1).all() and (indices == torch.arange(7)).all()


@FEW_AND_MANY
def test_squares_beyond_float32_are_refused(queries):
    query, gallery = vectors(queries, 4, 1) * 1e20, vectors(300, 4, 2) * 1e20
    with pytest.raises(InputError, match="query and gallery.*float32"):
        knn(query, gallery, 3)
    query, gallery = (torch.full((1, 2, n, n), 1e20) * sign for n, sign in ((4, 1), (4, -1)))
    with pytest.raises(InputError, match="float32"):
        pyramid_knn([query, query[..., ::2, ::2]], [gallery, gallery[..., ::2, ::2]], 1)


def test_vectors_that_only_hash_alike_are_no_duplicates():
    # The engine's hash takes these two for one: a sign goes into the bits 63 and 34 of what the second channel meets.
    one, other = torch.tensor([1.0, 1.0]), torch.tensor([-1.0, -1.0 - 2.0**-18])
    gallery = torch.stack([one] * 200 + [other])
    query = torch.stack([one, other] * 40)  # crowds of ties make the engine look for duplicates
    distances, indices = knn(query, gallery, 1)
    wanted, places = reference.knn(query, gallery, 1)
    assert torch.equal(indices, places) and torch.equal(distances, wanted.float())
