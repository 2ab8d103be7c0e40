"""The compiled module, as csrc/bindings defines it; tests/test_typing.py compares both. Addresses are integers.

The names that begin with cuda_ (and Cuda) exist only in a build with the CUDA engine: see fastspade.search.cuda.
"""

from collections.abc import Sequence
from typing import Any, TypedDict, type_check_only

# (address, dtype code, shape, strides in elements), as fastspade.search.cpu.describe makes them; four sizes and strides.
_Described = tuple[int, int, Sequence[int], Sequence[int]]
# (channels, height, width)
_Shape = tuple[int, int, int]

compiler: str
cuda_architectures: str

class NonFinite(ValueError): ...
class CudaError(RuntimeError): ...
class CudaOutOfMemory(CudaError): ...

@type_check_only
class _Counts(TypedDict):
    pairs: int
    fine_pairs: int
    int8_pairs: int
    int16_pairs: int
    exact_pairs: int

class CudaPlan:
    """path, workspace_bytes and so on, by name (csrc/bindings/cuda.hpp)."""
    def __getitem__(self, name: str) -> Any: ...

def simd() -> str: ...
def search_cpu(
    query: Sequence[_Described],
    gallery: Sequence[_Described],
    gallery_index: int,
    gallery_count: int,
    kappa: int,
    upsample: int,
    distances: int,
    indices: int,
    threads: int,
    prune: bool,
    row_radius: int = -1,
    column_radius: int = -1,
) -> _Counts: ...
def cuda_compute_capability(device: int) -> int: ...

# Bytes, and the offset of what tells equal pixels: hashes of 64 bits per pixel, as cuda_prepare_gallery leaves them; then, as a
# search wants it, two int32 per pixel (Equals in csrc/cuda/parameters.hpp).
def cuda_gallery_layout(
    device: int, gallery: Sequence[_Shape], images: int, upsample: int, bfloat16: bool
) -> tuple[int, int]: ...
def cuda_versions() -> list[int]: ...  # toolkit, runtime, driver as CUDA numbers them: 1000 * major + 10 * minor
def cuda_search_plan(
    device: int,
    gallery: Sequence[_Shape],
    images: int,
    upsample: int,
    bfloat16: bool,
    query: Sequence[_Shape],
    query_images: int,
    slots: int,
    kappa: int,
    chosen: bool,
    path: int,
) -> CudaPlan: ...
def cuda_prepare_gallery(
    device: int, stream: int, gallery: Sequence[_Described], upsample: int, bfloat16: bool, prepared: int
) -> None: ...
def cuda_compare_equals(
    device: int,
    stream: int,
    gallery: Sequence[_Described],
    upsample: int,
    bfloat16: bool,
    hashes: int,
    order: int,
    same: int,
) -> None: ...
def cuda_search(
    device: int,
    plan: CudaPlan,
    stream: int,
    query: Sequence[_Described],
    gallery: Sequence[_Described],
    prepared: int,
    gallery_index: int,
    redo: bool,
    distances: int,
    indices: int,
    counters: int,
    workspace: int,
) -> None: ...
