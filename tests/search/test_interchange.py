"""The search takes numpy, JAX and any DLPack arrays and returns the same kind, without copies where the layout allows."""

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest
import torch

from fastspade import knn, pyramid_knn
from fastspade.errors import DtypeError
from fastspade.search import PreparedGallery
from fastspade.search.interchange import library_of


def vectors(seed: int, rows: int, channels: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, channels)).astype(np.float32)


QUERY, GALLERY = vectors(1, 7), vectors(2, 30)
WANTED = [found.numpy() for found in knn(torch.from_numpy(QUERY), torch.from_numpy(GALLERY), 3)]
LEVELS = [np.random.default_rng(3).standard_normal((4, c, s, s)).astype(np.float32) for c, s in ((3, 8), (5, 4))]
CHOSEN = np.array([[0, 2], [3, 1]])


def tensor_of(array) -> torch.Tensor:
    return library_of(("query", array)).tensor("query", array)


class Producer:
    """An array of a library that knows DLPack and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.memory = torch.from_numpy(array)

    def __dlpack__(self, **options):
        return self.memory.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()


class Standard(Producer):
    """An array of a library that follows the array API standard."""

    @classmethod
    def from_dlpack(cls, other: torch.Tensor) -> Standard:
        return cls(other.numpy())

    def __array_namespace__(self, api_version=None):
        return types.SimpleNamespace(from_dlpack=self.from_dlpack)


class Elder(Producer):
    """An array of a library that has from_dlpack in its package, but not the standard's namespace."""

    __module__ = "elder_arrays.core"


class Refusing(Producer):
    def __dlpack__(self, **options):
        raise BufferError("this array was donated")


def test_numpy_vectors_are_answered_in_numpy():
    found = knn(QUERY, GALLERY, 3)
    for a, b in zip(found, WANTED, strict=True):
        assert type(a) is np.ndarray and a.dtype == b.dtype and np.array_equal(a, b)


def test_numpy_pyramids_are_answered_in_numpy():
    query = [level[:2] for level in LEVELS]
    wanted = pyramid_knn(*[[torch.from_numpy(x) for x in p] for p in (query, LEVELS)], 2, gallery_index=torch.from_numpy(CHOSEN))
    prepared = PreparedGallery(LEVELS)  # belongs to no library: the query's decides
    for gallery in (LEVELS, prepared):
        found = pyramid_knn(query, gallery, 2, gallery_index=CHOSEN)
        for a, b in zip(found, wanted, strict=True):
            assert type(a) is np.ndarray and np.array_equal(a, b.numpy())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numpy_is_read_in_place(dtype):
    array = QUERY.astype(dtype)
    array.flags.writeable = False
    for view in (array, array[::2], array.T, array[:, 1:3]):
        assert tensor_of(view).data_ptr() == view.__array_interface__["data"][0]


def test_read_only_arrays_and_memory_maps_work_without_a_warning(tmp_path):
    np.save(tmp_path / "gallery.npy", GALLERY)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    fixed = QUERY.copy()
    fixed.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distances, indices = knn(fixed, mapped, 3)
    assert np.array_equal(distances, WANTED[0]) and np.array_equal(indices, WANTED[1])


def test_memory_lent_to_torch_outlives_its_array():
    array = np.arange(1 << 16, dtype=np.float32)
    array.flags.writeable = False
    tensor = tensor_of(array)
    del array
    assert torch.equal(tensor, torch.arange(1 << 16, dtype=torch.float32))


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(lambda a: a[::-1][:, ::-1], id="negative strides"),
        pytest.param(lambda a: a.astype(">f4"), id="foreign byte order"),
        pytest.param(lambda a: np.rec.fromarrays([a, a.astype(np.int8)])["f0"], id="strides between elements"),
    ],
)
def test_layouts_that_torch_cannot_express_are_copied(odd):
    array = odd(QUERY)
    assert torch.equal(tensor_of(array), torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)))
    assert np.array_equal(knn(array, GALLERY, 1)[0], knn(np.ascontiguousarray(array, dtype=np.float32), GALLERY, 1)[0])


def test_numpys_bfloat16_is_read_as_such():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="numpy has bfloat16 only with ml_dtypes")
    array = QUERY.astype(ml_dtypes.bfloat16)
    assert torch.equal(tensor_of(array), torch.from_numpy(QUERY).bfloat16())


@pytest.mark.parametrize(("producer", "kind"), [(Producer, torch.Tensor), (Standard, Standard)])
def test_dlpack_arrays_are_answered_in_kind_or_as_tensors(producer, kind):
    found = knn(producer(QUERY), producer(GALLERY), 3)
    for a, b in zip(found, WANTED, strict=True):
        assert type(a) is kind
        assert np.array_equal(a.numpy() if kind is torch.Tensor else a.memory.numpy(), b)
    query = producer(QUERY)
    assert tensor_of(query).data_ptr() == query.memory.data_ptr()


def test_a_library_without_the_standards_namespace_is_asked_by_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "elder_arrays", types.SimpleNamespace(from_dlpack=lambda x: Elder(x.numpy())))
    for a, b in zip(knn(Elder(QUERY), Elder(GALLERY), 3), WANTED, strict=True):
        assert type(a) is Elder and np.array_equal(a.memory.numpy(), b)


@pytest.mark.slow
def test_jax_arrays_are_answered_in_jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    found = knn(jax.numpy.asarray(QUERY), jax.numpy.asarray(GALLERY), 3)
    for a, b in zip(found, WANTED, strict=True):
        assert isinstance(a, jax.Array) and np.array_equal(np.asarray(a), b)
    assert found[0].dtype == "float32" and found[1].dtype == ("int64" if jax.config.jax_enable_x64 else "int32")
    query, gallery = ([jax.numpy.asarray(level) for level in levels] for levels in ([x[:2] for x in LEVELS], LEVELS))
    found = pyramid_knn(query, gallery, 1, gallery_index=jax.numpy.asarray(CHOSEN))
    wanted = pyramid_knn([x[:2] for x in LEVELS], LEVELS, 1, gallery_index=CHOSEN)
    assert all(isinstance(a, jax.Array) and np.array_equal(np.asarray(a), b) for a, b in zip(found, wanted, strict=True))


def test_jax_bfloat16_is_searched_in_place():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    array = jax.numpy.asarray(QUERY, dtype="bfloat16")
    tensor = tensor_of(array)
    assert tensor.dtype == torch.bfloat16 and tensor.data_ptr() == array.unsafe_buffer_pointer()


def test_jax_tracers_are_refused_with_the_reason():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    with pytest.raises(TypeError, match="could not be read through DLPack"):
        jax.jit(lambda query: knn(query, query, 1))(QUERY)


def test_indices_that_a_library_would_wrap_round_are_an_error():
    class Narrow(Standard):
        @classmethod
        def from_dlpack(cls, other):
            made = cls(other.int().numpy())
            made.dtype = np.dtype(np.int32)
            return made

    library = library_of(("query", Narrow(QUERY)))
    assert isinstance(library.array(torch.tensor([2**31 - 1])), Narrow)
    with pytest.raises(ValueError, match="gallery is so large that its indices need int64"):
        library.array(torch.tensor([2**31]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: knn(QUERY, torch.from_numpy(GALLERY), 1), "query is a numpy array but gallery is a torch.Tensor"),
        (lambda: knn(Producer(QUERY), Standard(GALLERY), 1), r"query is a \w+ Producer but gallery is a"),
        (
            lambda: pyramid_knn(LEVELS[:1] + [torch.zeros(4, 5, 4, 4)], LEVELS, 1),
            r"query\[0\] is a numpy array but query\[1\] is a",
        ),
        (
            lambda: pyramid_knn([x[:2] for x in LEVELS], LEVELS, 1, gallery_index=torch.from_numpy(CHOSEN)),
            "gallery_index is a torch",
        ),
        (
            lambda: knn(QUERY.astype(np.float64), GALLERY, 1),
            r"query must be float32.* got float64; round it .*astype\('float32'\)",
        ),
        (lambda: knn(QUERY, GALLERY.astype(np.int32), 1), "gallery must be float32, float16 or bfloat16, got int32"),
        (lambda: knn(QUERY.astype("U"), GALLERY, 1), "query must be an array of floats or integers, got dtype <U"),
        (lambda: knn(np.ma.masked_less(QUERY, 0), GALLERY, 1), "query must not be a masked array"),
        (
            lambda: knn(QUERY.tolist(), GALLERY, 1),
            "query must be a torch.Tensor, numpy array or an array with __dlpack__, got list",
        ),
        (
            lambda: pyramid_knn([x[:2] for x in LEVELS], LEVELS, 1, gallery_index=CHOSEN * 1.0),
            "gallery_index must be int64, got float64",
        ),
        (lambda: pyramid_knn(LEVELS[0], LEVELS, 1), "query must be a sequence of tensors.*got ndarray"),
        (
            lambda: knn(Refusing(QUERY), Refusing(GALLERY), 1),
            r"query could not be read through DLPack \(BufferError: this array was donated",
        ),
    ],
)
def test_arrays_that_cannot_be_used_are_named(call, message):
    with pytest.raises(DtypeError, match=message):
        call()
