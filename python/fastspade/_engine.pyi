"""The compiled module, as csrc/bindings defines it; tests/test_typing.py compares both. Addresses are integers.

The names that begin with cuda_ (and Cuda) exist only in a build with the CUDA engine: see fastspade.search.cuda.
"""

from collections.abc import Sequence
from typing import TypedDict, type_check_only

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
    byte_pairs: int
    word_pairs: int
    exact_pairs: int

@type_check_only
class _Plan(TypedDict):
    path: str
    stages: int
    step_channels: int
    jobs: int
    workspace_bytes: int
    groups: int
    tile_rows: int
    splits: int
    segments: int
    keep: int
    capacity: int
    shared_bytes: int
    launch_tiles: int
    lists_on_chip: bool
    rings: list[int]
    strides: list[int]

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
) -> _Counts: ...
def cuda_compute_capability(device: int) -> int: ...
def cuda_versions() -> list[int]: ...  # toolkit, runtime, driver as CUDA numbers them: 1000 * major + 10 * minor
def cuda_gallery_bytes(device: int, gallery: Sequence[_Shape], images: int, upsample: int, bfloat16: bool) -> int: ...
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
    path: int,
) -> _Plan: ...
def cuda_prepare_gallery(
    device: int, stream: int, gallery: Sequence[_Described], upsample: int, bfloat16: bool, prepared: int
) -> None: ...
def cuda_search(
    device: int,
    stream: int,
    query: Sequence[_Described],
    gallery: Sequence[_Described],
    prepared: int,
    gallery_index: int,
    slots: int,
    kappa: int,
    upsample: int,
    bfloat16: bool,
    redo: bool,
    distances: int,
    indices: int,
    counters: int,
    workspace: int,
    path: int,
) -> None: ...
