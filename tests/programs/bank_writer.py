"""Writes a bank again and again and is killed at every step: run by test_bank_crashes.py as a process of its own, so that
its children, which share everything it has imported, need no more than a fork each.

    python bank_writer.py FOLDER save|add|remove

The first writer is killed at its first call that changes the disk, the next at its second, and so on until one gets to its
end; each finds what the ones before it left. Prints, as JSON, how often the bank was found before and after the change that
the kill interrupted, and how often the kill left files that belong to no bank.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastspade import Bank
from fastspade.backbones.extractor import Features

SHAPES = ((4, 32, 32), (8, 8, 8))
STEPS = ("open", "pwrite", "fsync", "replace", "unlink", "chmod")  # calls of os that change the disk
State = list[tuple[int, str]]  # ids and names


def features(count: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    pyramid = [torch.randn(count, *shape, generator=generator) for shape in SHAPES]
    return Features(torch.randn(count, 16, generator=generator), pyramid, [f"{seed}-{i}" for i in range(count)])


def bank_of(part: Features) -> Bank:
    return Bank(part.embeddings, part.pyramid, part.names)


def change(path: Path, action: str, seed: int) -> None:
    """One change of the bank; which one follows from the seed and the ids that are there."""
    if action == "save" or (path / "manifest.json").exists() is False:
        bank_of(features(12, seed)).save(path)
        return
    bank = Bank.open(path)
    if len(bank) < 7 or len(bank) > 40:
        bank_of(features(24, seed)).save(path)
    elif action == "add":
        bank.merge(bank_of(features(6, seed)))
    else:
        bank.remove(random.Random(seed).sample(bank.ids, 5))


def changed(state: State, next_id: int, action: str, seed: int) -> tuple[State, int]:
    """What `change` makes of a bank, on paper."""
    if action == "save" or len(state) < 7 or len(state) > 40:
        count = 12 if action == "save" else 24
        return [(i, f"{seed}-{i}") for i in range(count)], count
    if action == "add":
        return state + [(next_id + i, f"{seed}-{i}") for i in range(6)], next_id + 6
    gone = random.Random(seed).sample([number for number, _ in state], 5)
    return [entry for entry in state if entry[0] not in gone], next_id


def state_of(path: Path) -> tuple[State, int]:
    """What the bank holds. Raises where anything of it is not as it was written."""
    bank = Bank.open(path)
    bank.verify()
    last = bank.names[-1]
    seed, number = map(int, last.split("-"))
    made = next(
        part for part in (features(n, seed) for n in (6, 12, 24)) if len(part.names) > number and is_of(bank, part, number)
    )
    assert torch.equal(bank.levels(torch.tensor([len(bank) - 1]))[0][0], made.pyramid[0][number])
    return list(zip(bank.ids, bank.names)), bank.snapshot.next_id


def is_of(bank: Bank, part: Features, number: int) -> bool:
    return torch.equal(bank.embeddings[-1], part.embeddings[number])


def litter(path: Path) -> set[str]:
    manifest = json.loads((path / "manifest.json").read_text())["bank"]
    return set(os.listdir(path)) - {"manifest.json", "lock", *(shard["file"] for shard in manifest["shards"])}


def killed_at(step: int) -> None:
    """This process is killed at its step-th call that changes the disk: before it, or with half of what it writes written."""
    left = step

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                if name == "pwrite":
                    file, data, at = args
                    real(file, data[: len(data) // 2], at)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)

        return call

    for name in STEPS:
        setattr(os, name, dying(name, getattr(os, name)))


def write(path: Path, action: str, number: int, step: int) -> int:
    """A change in a process that is killed at a step of it. How the process ended, as os.waitpid tells it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            killed_at(step)
            change(path, action, number)
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def main(folder: str, action: str) -> None:
    torch.set_num_threads(1)
    path, counts = Path(folder), {"before": 0, "after": 0, "with litter": 0}
    change(path, "save", 1)
    change(path, "add", 2)
    for step in itertools.count(1):
        before = state_of(path)
        after = changed(*before, action, step + 2)
        status = write(path, action, step + 2, step)
        if status == 0:
            break
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "the writer failed"
        found = state_of(path)
        assert found in (before, after), f"neither the bank before the change nor the one after it: {found}"
        counts["after" if found == after else "before"] += 1
        counts["with litter"] += bool(litter(path))
    assert state_of(path) == after and not litter(path), "the last writer left what killed ones had written"
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
