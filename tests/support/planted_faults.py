"""Runs the check of an engine with a planted fault."""

from __future__ import annotations

import faulthandler
import json
import os
import warnings
from collections.abc import Callable

import torch


def in_a_process_of_its_own(check: Callable[..., None], *arguments) -> list[str]:
    """What check(*arguments) raised, a wrong answer or what the emulated device itself noticed, or how the process ended: a fault
    may read or write anywhere. Empty where all is well."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child does not use
        child = os.fork()
    if child == 0:
        faulthandler.disable()
        torch.set_num_threads(1)
        found = []
        try:
            check(*arguments)
        except Exception as error:
            found = [f"{type(error).__name__}: {error}"[:200]]
        os.write(theirs, json.dumps(found).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(told) if status == 0 else [f"ended with status {os.waitstatus_to_exitcode(status)}"]
