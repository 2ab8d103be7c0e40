"""Talking between the processes of a run, so that a failure in one is an error in all and nobody waits for ever."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from fastspade.errors import FastspadeError, InputError, RankError

T = TypeVar("T")


class Ranks:
    """The processes of a run. Every method is a collective: all ranks must call it, in the same order.

    rank, size: this process, and how many there are. timeout: seconds to wait for the others; then, and when one of them
    dies, the waiting ranks raise RankError.
    """

    def __init__(self, timeout: float) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise InputError(f"timeout must be a positive number of seconds, got {timeout!r}")
        if not dist.is_available() or not dist.is_initialized():
            raise InputError(
                "torch.distributed is not initialised: start the script with torchrun and call "
                "torch.distributed.init_process_group('gloo'), or 'nccl' for GPUs, before this"
            )
        self.timeout = float(timeout)
        with self._waiting("the others to join"):
            group = dist.new_group(timeout=timedelta(seconds=self.timeout))  # its own, for its own timeout
        if not isinstance(group, dist.ProcessGroup):
            raise RankError("this process is not one of the group's ranks")
        self._group = group
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        nccl = dist.get_backend(self._group) == "nccl"
        self._wire = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what every backend raises: a closed connection, or the time is up
            if isinstance(error, FastspadeError):
                raise
            text = str(error).partition("\n")[0]
            raise RankError(
                f"another process died, or did not answer within {self.timeout:g} s, waiting for {what}: {text}"
            ) from error

    def gather(self, what: str, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        values: list[Any] = [None] * self.size
        with self._waiting(what):
            dist.all_gather_object(values, value, group=self._group)
        return values

    def broadcast(self, what: str, value: T | None, source: int) -> T:
        """The value of rank `source`; what the others pass is ignored."""
        values: list[Any] = [value]
        with self._waiting(what):
            dist.broadcast_object_list(values, src=source, group=self._group)
        sent: T = values[0]
        return sent

    def gather_tensors(self, what: str, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks, which have one shape and type, on the device of this rank's."""
        mine = tensor.to(self._wire).contiguous()
        every = [torch.empty_like(mine) for _ in range(self.size)]
        with self._waiting(what):
            dist.all_gather(every, mine, group=self._group)
        return [one.to(tensor.device) for one in every]

    def broadcast_tensors(
        self,
        what: str,
        tensors: Sequence[torch.Tensor] | None,
        shapes: Sequence[Sequence[int]],
        source: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> list[torch.Tensor]:
        """The tensors of rank `source`, whose shapes and type all ranks know, on `device`. The others' are ignored."""
        place = torch.device("cpu") if device is None else device
        received = []
        for i, shape in enumerate(shapes):
            if self.rank == source and tensors is not None:
                sent = tensors[i].to(self._wire).contiguous()
            else:
                sent = torch.empty(tuple(shape), dtype=dtype, device=self._wire)
            if sent.numel():
                with self._waiting(what):
                    dist.broadcast(sent, src=source, group=self._group)
            received.append(sent.to(place))
        return received

    def together(self, what: str, work: Callable[[], T]) -> T:
        """Run `work` on every rank; if it fails on any, all raise. A fastspade error is raised as it is, others as RankError."""
        result, mine = None, None
        try:
            result = work()
        except Exception as error:
            mine = error
        failures = self.gather(what, None if mine is None else _portable(mine))
        if mine is not None:
            raise mine
        for rank, failure in enumerate(failures):
            if isinstance(failure, FastspadeError):
                raise failure
            if failure is not None:
                raise RankError(f"rank {rank} failed at {what}: {failure}")
        return result  # type: ignore[return-value]  # where it is None, that is what work() returned


def _portable(error: Exception) -> FastspadeError | str:
    """The error itself where the other ranks can know it, else its text."""
    if isinstance(error, FastspadeError):
        try:
            pickle.loads(pickle.dumps(error))
            return error
        except Exception:
            pass
    return f"{type(error).__name__}: {error}"
