"""What each actor of a run does: load the model once, then score parts and write them."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import ray
import torch

from fastspade.errors import EngineError, FastspadeError, ImageReadError, MissingFileError
from fastspade.images import Entry
from fastspade.images.decode import Decoded
from fastspade.images.further import Further
from fastspade.ray.output import part_bytes, part_counts, start_row, unreadable_row
from fastspade.ray.reading import part_entries, row_entries
from fastspade.ray.storage import Place
from fastspade.spade import Spade

MOST_ATTEMPTS = 4  # at one part, in one run


@dataclass(frozen=True)
class Job:
    """What is the same for every part. model: a path, or a Shipped one in Ray's object store."""

    model: str | ray.ObjectRef
    output: Place
    device: str
    batch_size: int
    num_workers: int
    max_pixels: int | None
    memory_limit: int | None
    maps: bool
    skip_bad: bool
    threshold: float | None
    pixel_threshold: float | None
    backbone: torch.nn.Module | None
    weights: str | None
    image_column: str | None
    name_column: str | None
    attempts: ray.actor.ActorHandle

    def load(self) -> Spade:
        if isinstance(self.model, ray.ObjectRef):
            model: Spade = ray.get(self.model).unpack()
        else:
            model = Spade.load(self.model, backbone=self.backbone, device=self.device, weights=self.weights)
        running = ("batch_size", "num_workers", "max_pixels", "memory_limit")
        model.settings = replace(model.settings, progress=False, **{name: getattr(self, name) for name in running})
        return model


@ray.remote
class Attempts:
    """Counts how often each part was begun. Ray Data retries what a dead worker had in hand for ever; images that kill
    every worker (by exhausting its memory, say) must end the run instead."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def begin(self, file: str) -> int:
        self.begun[file] += 1
        return self.begun[file]


class Scorer:
    """An actor. An error that fastspade raised on purpose is an answer: the driver raises it, Ray does not retry it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model: Spade | None = None
        self.pool = ThreadPoolExecutor(max(1, job.num_workers), thread_name_prefix="fastspade-encode")

    def answer(self, file: str, read: Callable[[], list[Entry]]) -> dict[str, Any]:
        """Score and write one part, unless it is there: a part scored before its worker died is not scored twice."""
        try:
            place = self.job.output.join(file)
            if place.exists():
                return _answer(file, *part_counts(place))
            if ray.get(self.job.attempts.begin.remote(file)) > MOST_ATTEMPTS:
                raise EngineError(
                    f"{file}: {MOST_ATTEMPTS} workers died over it; run it again with more memory or without its images"
                )
            begun = time.perf_counter()
            if self.model is None:
                self.model = self.job.load()
            rows, further = self._score(self.model, read())
            about = {"host": socket.gethostname(), "pid": os.getpid(), "seconds": round(time.perf_counter() - begun, 4)}
            place.write(part_bytes(rows, {"fastspade": json.dumps(about)}))
            return _answer(file, len(rows), sum(row["error"] is not None for row in rows), further=further)
        except (FastspadeError, OSError) as error:
            return _answer(file, 0, 0, ray.cloudpickle.dumps(error))

    def _score(self, model: Spade, entries: Sequence[Entry]) -> tuple[list[dict[str, Any]], Further]:
        failed: dict[int, FastspadeError] = {}
        watched = [Entry(entry.name, _watched(entry, i, failed)) for i, entry in enumerate(entries)]
        job = self.job
        rows: list[dict[str, Any]] = []
        model.skipped = []
        waiting: deque[Future[dict[str, Any]]] = deque()
        try:
            for image in model.score_batches(
                watched, skip_bad=job.skip_bad, threshold=job.threshold, pixel_threshold=job.pixel_threshold
            ):
                waiting.append(start_row(image, job.maps, self.pool))
                if len(waiting) > 2 * job.batch_size:  # so that not all of the part's maps wait uncompressed
                    rows.append(waiting.popleft().result())
        except ImageReadError:
            if not (job.skip_bad and len(failed) == len(entries)):  # none of them readable is no error here
                raise
        rows += [one.result() for one in waiting]
        if len(rows) + len(failed) != len(entries):
            raise EngineError(f"{len(entries)} images gave {len(rows)} scores and {len(failed)} unreadable ones")
        good = iter(rows)
        found = [unreadable_row(entry.name, failed[i]) if i in failed else next(good) for i, entry in enumerate(entries)]
        return found, Further.of(model.skipped)


class PartScorer(Scorer):
    """Takes parts that the driver listed."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        answers = []
        for number, pickled in zip(batch["number"], batch["part"], strict=True):
            part = ray.cloudpickle.loads(bytes(pickled))
            answers.append(self.answer(part_file(int(number)), partial(part_entries, part, self.job.max_pixels)))
        return _columns(answers)


class RowScorer(Scorer):
    """Takes rows of a Ray dataset: a batch is a part, named by what is in it."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        image_column, name_column = cast(str, self.job.image_column), cast(str, self.job.name_column)  # check_column's
        entries = row_entries(batch, image_column, name_column, self.job.max_pixels)
        digest = hashlib.sha256("\0".join(entry.name for entry in entries).encode()).hexdigest()[:32]
        return _columns([self.answer(f"part-{digest}.parquet", lambda: entries)])


def part_file(number: int) -> str:
    return f"part-{number:09d}.parquet"


def _watched(entry: Entry, position: int, failed: dict[int, FastspadeError]) -> Callable[[], Decoded]:
    """The entry's loader, which also notes that the image at `position` could not be read."""

    def load() -> Decoded:
        try:
            return entry.load()
        except (ImageReadError, MissingFileError) as error:
            failed[position] = error
            raise

    return load


def _answer(file: str, images: int, unreadable: int, error: bytes = b"", further: Further = Further()) -> dict[str, Any]:
    return {"file": file, "images": images, "unreadable": unreadable, "error": error} | asdict(further)


def _columns(answers: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [answer[name] for answer in answers] for name in answers[0]}
