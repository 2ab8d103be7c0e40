"""Checks of search arguments. The engines trust their input: everything they rely on is established here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fastspade.errors import DeviceError, DtypeError, InputError

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
UPSAMPLES = {"nearest": 0, "bilinear": 1}
PRECISIONS = ("exact", "fast")


def shape_text(shape: Sequence[int]) -> str:
    return "(" + ", ".join(str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"


def check_tensor(name: str, value: object, axes: str) -> torch.Tensor:
    """A floating tensor with as many axes as named in `axes`, none of them empty."""
    if not isinstance(value, torch.Tensor):
        raise DtypeError(f"{name} must be a torch.Tensor {axes}, got {type(value).__name__}")
    if value.dtype not in DTYPES:
        # Rounding is the caller's decision: distances of rounded vectors are other distances.
        advice = "; round it with .float(), in numpy .astype('float32')" if value.dtype == torch.float64 else ""
        got = str(value.dtype).removeprefix("torch.")
        raise DtypeError(f"{name} must be float32, float16 or bfloat16, got {got}{advice}")
    if value.layout is not torch.strided:
        raise DtypeError(f"{name} must be a dense tensor, got layout {value.layout}")
    if value.ndim != axes.count(",") + 1:
        raise InputError(f"{name} must have shape {axes}, got {shape_text(value.shape)}")
    if 0 in value.shape:
        raise InputError(f"{name} must not be empty, got shape {shape_text(value.shape)}; needs {axes}")
    return value.resolve_neg()  # a lazily negated view, as of a conjugate's imaginary part, has its memory unchanged


def check_pyramid(name: str, levels: object) -> list[torch.Tensor]:
    """L tensors (images, C_l, H_l, W_l), finest first, one image count and one device."""
    if isinstance(levels, torch.Tensor) or not isinstance(levels, Sequence):
        raise DtypeError(f"{name} must be a sequence of tensors, one per level, finest first; got {type(levels).__name__}")
    if len(levels) == 0:
        raise InputError(f"{name} must hold at least one level, got none")
    checked = [check_tensor(f"{name}[{i}]", level, "(images, channels, height, width)") for i, level in enumerate(levels)]
    for i, level in enumerate(checked[1:], start=1):
        before = checked[i - 1]
        if level.shape[0] != checked[0].shape[0]:
            raise InputError(
                f"{name}[{i}] holds {level.shape[0]} images, but {name}[0] holds {checked[0].shape[0]}; "
                "every level needs the same images"
            )
        if level.shape[2] > before.shape[2] or level.shape[3] > before.shape[3]:
            raise InputError(
                f"{name} must be ordered finest first: level {i} is {level.shape[2]}x{level.shape[3]}, "
                f"larger than level {i - 1} at {before.shape[2]}x{before.shape[3]}"
            )
        if level.device != checked[0].device:
            raise DeviceError(f"{name}[{i}] is on {level.device}, but {name}[0] is on {checked[0].device}")
    return checked


def check_kappa(kappa: object, available: int, what: str) -> int:
    if isinstance(kappa, bool) or not hasattr(kappa, "__index__"):
        raise DtypeError(f"kappa must be an integer, got {type(kappa).__name__}")
    value: int = kappa.__index__()
    if not 1 <= value <= available:
        raise InputError(f"kappa must be between 1 and the number of gallery {what} searched ({available}), got {value}")
    return value


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(repr(c) for c in choices)}, got {value!r}")
    return str(value)


def check_gallery_index(gallery_index: object, queries: int, device: torch.device, *, streamed: bool = False) -> torch.Tensor:
    """(B, K) integers on `device`, returned as contiguous int64. Their values are the engines' to check.

    streamed: the gallery is brought to the device as it is needed; then they may be in host memory too.
    """
    if not isinstance(gallery_index, torch.Tensor):
        raise DtypeError(f"gallery_index must be a torch.Tensor (B, K), got {type(gallery_index).__name__}")
    if gallery_index.dtype not in (torch.int64, torch.int32):
        raise DtypeError(f"gallery_index must be int64, got {str(gallery_index.dtype).removeprefix('torch.')}")
    if gallery_index.ndim != 2 or gallery_index.shape[0] != queries or gallery_index.shape[1] == 0:
        raise InputError(
            f"gallery_index must have shape ({queries}, K) with K >= 1, one row per query image; "
            f"got {shape_text(gallery_index.shape)}"
        )
    if gallery_index.device != device and not (streamed and gallery_index.device.type == "cpu"):
        raise DeviceError(f"gallery_index is on {gallery_index.device}, but the features are on {device}")
    return gallery_index.to(torch.int64).contiguous()


def check_pair(query: list[torch.Tensor], gallery: list[torch.Tensor]) -> None:
    """The two pyramids must be comparable level by level."""
    if len(query) != len(gallery):
        raise InputError(f"query has {len(query)} levels and gallery has {len(gallery)}; they need the same levels")
    for i, (a, b) in enumerate(zip(query, gallery, strict=True)):
        if a.shape[1:] != b.shape[1:]:
            raise InputError(
                f"query[{i}] is {shape_text(a.shape[1:])} an image and gallery[{i}] is {shape_text(b.shape[1:])}; "
                "channels, height and width must agree"
            )
    check_devices(query[0].device, gallery[0].device)


def check_answer(
    distances: torch.Tensor,
    indices: torch.Tensor,
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor],
    gallery_index: torch.Tensor | None,
) -> None:
    """Raises InputError where features are not finite, naming level and image, or distances leave float32. Waits for the search.

    The answer tells: a search sorts what is not finite first, and distances beyond float32 are infinite. Infinity with index -1
    stands where a query has fewer than kappa pixels.
    """
    if math.isfinite(distances.sum(dtype=torch.float64).item()) or bool((distances.isfinite() | (indices < 0)).all()):
        return
    for side, levels, searched in (("query", query, None), ("gallery", gallery, gallery_index)):
        for number, level in enumerate(levels):
            bad = (~level.isfinite()).flatten(1).any(1).nonzero()[:, 0]
            if searched is not None:
                bad = bad[torch.isin(bad, searched.to(bad.device))]
            if len(bad):
                raise InputError(f"{side}[{number}] holds NaN or infinite values in image {int(bad[0])}; features must be finite")
    raise InputError(
        "query and gallery are so far apart that squared distances leave float32 (3.4e38); scale both down, to values below 1e17"
    )


def check_devices(query: torch.device, gallery: torch.device) -> None:
    """One device, or a gallery in host memory beside queries on CUDA, which is streamed."""
    if query != gallery and not (query.type == "cuda" and gallery.type == "cpu"):
        raise DeviceError(f"query is on {query} and gallery on {gallery}; move one to the other")
