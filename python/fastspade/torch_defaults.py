"""torch as it is when a program starts, whatever the caller has set: scores are bit-identical under every setting.

torch has settings that change what the same code computes: some belong to the process (the default dtype, the precision of
float32 products, whether oneDNN, cuDNN and the fused attentions are used), some to the thread (autocast, the default device
and other function modes, inference mode, whether denormals are flushed). What computes here does so inside
`torch_defaults()`. The number of threads is not among them: it is for speed, and may change a network's last bits.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import backends
from torch.overrides import _pop_mode, _push_mode

__all__ = ["eager_torch_defaults", "torch_defaults"]

P = ParamSpec("P")
T = TypeVar("T")

_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")  # that have an autocast of their own
_allow_changes = getattr(backends, "__allow_nonbracketed_mutation")  # also after torch.backends.disable_global_flags()


class _Setting(NamedTuple):
    """A setting of the process, and what it is when a program starts."""

    get: Callable[[], Any]
    set: Callable[[Any], Any]
    default: Any


def _attribute(place: Any, name: str, default: Any) -> list[_Setting]:
    """The setting that an attribute is; none where this torch does not have it."""
    try:
        getattr(place, name)
    except (AttributeError, RuntimeError, AssertionError):
        return []
    return [_Setting(partial(getattr, place, name), partial(setattr, place, name), default)]


def _float32_precisions() -> list[_Setting]:
    """How float32 products and convolutions are rounded: by operation since torch 2.9, by one word before."""
    if not hasattr(backends, "fp32_precision"):
        return [
            _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
            *_attribute(backends.cudnn, "allow_tf32", True),
        ]
    found = []
    for backend, operation, default in (
        (backends.mkldnn, "matmul", "ieee"), (backends.mkldnn, "conv", "ieee"), (backends.mkldnn, "rnn", "ieee"),
        (backends.cuda, "matmul", "ieee"), (backends.cudnn, "conv", "tf32"), (backends.cudnn, "rnn", "tf32"),
    ):  # fmt: skip
        place = getattr(backend, operation, None)
        found += [_precision(one) for one in _attribute(place, "fp32_precision", default)]
    return found


def _precision(one: _Setting) -> _Setting:
    """Restored as inherited ("none") where it was what all operations have, so that it follows them later, too."""

    def get() -> Any:
        value = one.get()
        return one.default if value == "none" else value

    def put(value: Any) -> None:
        one.set("none" if value == getattr(backends, "fp32_precision") else value)

    return _Setting(get, put, one.default)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


_SETTINGS = (
    _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    _Setting(_deterministic, lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]), (False, False)),
    _Setting(torch._C._get_nnpack_enabled, torch._C._set_nnpack_enabled, True),
    _Setting(backends.cuda.flash_sdp_enabled, backends.cuda.enable_flash_sdp, True),
    _Setting(backends.cuda.mem_efficient_sdp_enabled, backends.cuda.enable_mem_efficient_sdp, True),
    _Setting(backends.cuda.math_sdp_enabled, backends.cuda.enable_math_sdp, True),
    _Setting(backends.cuda.cudnn_sdp_enabled, backends.cuda.enable_cudnn_sdp, True),
    _Setting(backends.mha.get_fastpath_enabled, backends.mha.set_fastpath_enabled, True),
    *_attribute(backends.mkldnn, "enabled", True),
    *_attribute(backends.mkldnn, "deterministic", False),
    *_attribute(backends.cudnn, "enabled", True),
    *_attribute(backends.cudnn, "benchmark", False),
    *_attribute(backends.cudnn, "deterministic", False),
    *_attribute(backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", True),
    *_attribute(backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", True),
    *_attribute(backends.cuda.matmul, "allow_fp16_accumulation", False),
    *_float32_precisions(),
)


class _Process:
    """The settings of the process: the first to come sets those that differ from their default, the last to go restores them.
    Threads that compute at the same time would else take the defaults away from each other."""

    def __init__(self) -> None:
        self._guard, self._inside = threading.Lock(), 0
        self._changed: list[tuple[_Setting, Any]] = []

    def enter(self) -> None:
        with self._guard:
            self._inside += 1
            for one in _SETTINGS:
                value = one.get()
                if value != one.default:
                    with _allow_changes():
                        one.set(one.default)
                    self._changed.append((one, value))

    def leave(self) -> None:
        with self._guard:
            self._inside -= 1
            if self._inside == 0:
                self.restore()

    def restore(self) -> None:
        while self._changed:
            one, value = self._changed.pop()
            if one.get() == one.default:  # else somebody has set it meanwhile
                with _allow_changes():
                    one.set(value)

    def after_fork(self) -> None:
        """The child has none of the threads that were computing."""
        self._guard, self._inside = threading.Lock(), 0
        self.restore()


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.after_fork)


@contextmanager
def torch_defaults() -> Iterator[None]:
    """torch's settings are at their defaults inside, and as they were afterwards. Not for code of the caller's, which has a
    right to its own settings: a generator must not yield inside.

    Gradients are not recorded, and tensors made inside are usable everywhere, also where the caller is in inference mode.
    """
    with ExitStack() as stack:
        modes = []
        while torch._C._len_torch_function_stack():
            modes.append(_pop_mode())
            stack.callback(_push_mode, modes[-1])
        _process.enter()
        stack.callback(_process.leave)
        for kind in _DEVICE_TYPES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if sys.float_info.min / 2 == 0:
            torch.set_flush_denormal(False)
            stack.callback(torch.set_flush_denormal, True)
        yield


def eager_torch_defaults(call: Callable[P, T]) -> Callable[P, T]:
    """A method that computes inside `torch_defaults()`, but where it is traced: a graph holds no settings of the process."""

    @wraps(call)
    def run(*arguments: P.args, **named: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return call(*arguments, **named)
        with torch_defaults():
            return call(*arguments, **named)

    return run
