"""fastspade.ray.score: a pool of actors on a Ray cluster scores images and writes parquet, part by part.

Ray Data runs the pool (placement, restarts, retries, autoscaling), but over *parts* listed beforehand rather than over
rows: where Ray Data cuts its blocks is not the same from run to run, so a run that was killed could not tell which rows
are done. A part has a fixed name and appears whole or not at all, so whether it is done is whether its file is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import ray
import ray.data
import torch

from fastspade import checks
from fastspade.errors import DeviceError, EngineError, InputError
from fastspade.files.progress import progress_bar
from fastspade.files.signals import keeps_handler
from fastspade.images import DEFAULT_MAX_PIXELS
from fastspade.images.further import Further
from fastspade.info import build_info
from fastspade.ray.manifest import claim, model_fingerprint
from fastspade.ray.shipping import Shipped
from fastspade.ray.sources import IMAGE_COLUMNS, Listing, Source, check_column, list_source
from fastspade.ray.storage import FileSystem, Place, locate
from fastspade.ray.worker import Attempts, Job, PartScorer, RowScorer, part_file
from fastspade.spade import Spade

BATCHES_PER_PART = 32
BLOCKS_PER_ACTOR = 64  # parts travel to actors in this many blocks or more, so that no actor is left with a long one


@dataclass(frozen=True)
class RunSummary:
    """output: where. images: rows written, in all parts. parts: of the run; resumed: how many of them an earlier,
    interrupted run had written. unreadable: images that this run found unreadable. further: pages or frames that it left out, of
    files of which the first picture alone is read. seconds: this run took."""

    output: str
    images: int
    parts: int
    resumed: int
    unreadable: int
    further: int
    seconds: float


def score(
    images: Source | Sequence[Source] | ray.data.Dataset,
    model: str | os.PathLike[str] | Spade,
    *,
    output: str | os.PathLike[str],
    concurrency: int | tuple[int, int] | None = None,
    num_gpus: float | None = None,
    num_cpus: float = 1,
    batch_size: int = 8,
    images_per_part: int | None = None,
    num_workers: int = 2,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    memory_limit: int | None = None,
    maps: bool = True,
    skip_bad: bool = False,
    threshold: float | None = None,
    pixel_threshold: float | None = None,
    image_column: str | None = None,
    name_column: str | None = None,
    filesystem: FileSystem | None = None,
    backbone: torch.nn.Module | None = None,
    weights: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> RunSummary:
    """Score images on a Ray cluster into a folder of parquet files. Repeated after a crash, it goes on where it stopped.

    images: a file, folder (searched recursively), glob, parquet file or folder of them (encoded images as bytes), a list of
        one kind, local or as URIs ("s3://bucket/folder"); or a ray.data.Dataset with encoded bytes or (H, W, C) arrays.
        Local paths must be readable under the same name on every node.
    model: path of a saved model, or a Spade fitted on the CPU. For actors on CPUs the bank of a model in one file, or of a
        Spade, lies in Ray's object store, once per node, and all actors map that memory; one in a folder stays on disk.
        Actors on GPUs read the path, which must be the same on every node. backbone, weights: as for Spade.load.
    output: folder or URI; new, empty, or holding the same run, begun earlier. Another run in it is an InputError.
    concurrency: actors, or (fewest, most) for a pool that grows with the cluster. None: as many as its GPUs or CPUs serve.
    num_gpus, num_cpus: of each actor. num_gpus None: 1 where the cluster has GPUs and this build has an engine for
        them, else 0. CPU actors compute with num_cpus threads.
    batch_size: images per call of the backbone. images_per_part: images per output file (None: 32 batches). Scores are
        bit-identical to Spade.score where the machines, the number of threads and (on GPUs) batch_size are the same.
    num_workers: decoding threads of each actor. max_pixels, memory_limit: as for Spade, of each actor. maps: write them too.
    skip_bad: write unreadable images with their error instead of stopping.
    threshold, pixel_threshold: as for Spade.score.
    image_column, name_column: of parquet files and datasets. Default "image" or "bytes"; names default to file#row,
        and in a dataset to the column "path" or "name". Names in a dataset must be unique: they tell what is done.
    filesystem: a file system of pyarrow or fsspec that images and output are paths on, instead of what their URIs say.

    Each row holds name, score, decision, map (PNG, 16-bit; see fastspade.ray.decode_map), map_low, map_high, neighbors,
    neighbor_distances, and error.

    Raises InputError, MissingFileError, ImageReadError, ModelFileError, DeviceError; EngineError where workers keep dying.
    """
    begun = time.perf_counter()
    batch_size = checks.count("batch_size", batch_size)
    images_per_part = checks.optional_count("images_per_part", images_per_part) or BATCHES_PER_PART * batch_size
    checks.optional_number("threshold", threshold)
    checks.optional_number("pixel_threshold", pixel_threshold)
    place = locate(output, "output", filesystem)
    fingerprint = model_fingerprint(model)
    dataset = images if isinstance(images, ray.data.Dataset) else None
    if dataset is None:
        listing = list_source(images, images_per_part, image_column=image_column, name_column=name_column, filesystem=filesystem)
        source = {"kind": listing.kind, "images": listing.images, "parts": len(listing.parts), "fingerprint": listing.fingerprint}
    else:
        columns = dataset.columns() or []
        image_column = check_column("image_column", image_column, IMAGE_COLUMNS, columns, "the dataset")
        name_column = check_column("name_column", name_column, ("path", "name"), columns, "the dataset")
        source = {"kind": "dataset"}
    _connect()
    num_gpus = _usual_gpus() if num_gpus is None else num_gpus
    if num_gpus and isinstance(model, Spade):
        raise DeviceError(
            "model must be the path of a saved model for actors on GPUs; save it, and pass backbone= if it is your own"
        )
    if isinstance(model, Spade) and model.device.type != "cpu":
        raise DeviceError(f"model is on {model.device}; save it and pass its path")
    if not num_gpus and not isinstance(model, Spade) and os.path.isfile(model):  # else every actor would hold all of it
        path, own = os.fspath(model), None if weights is None else os.fspath(weights)
        model = Spade.load(path, backbone=backbone, weights=own, device="cpu", progress=False)
    kept = ray.put(Shipped.pack(model)) if isinstance(model, Spade) else None  # held here: restarted actors need it again
    counter: Any = Attempts  # ray.remote has made it an actor's class
    job = Job(
        model=kept if isinstance(model, Spade) else os.path.abspath(model),
        output=place,
        device="cuda" if num_gpus else "cpu",
        batch_size=batch_size,
        num_workers=num_workers,
        max_pixels=max_pixels,
        memory_limit=memory_limit,
        maps=maps,
        skip_bad=skip_bad,
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        backbone=backbone,
        weights=None if weights is None else os.path.abspath(weights),
        image_column=image_column,
        name_column=name_column,
        attempts=counter.options(num_cpus=0, max_restarts=-1).remote(),
    )
    options = {name: getattr(job, name) for name in _SCORES_DEPEND_ON} | {"images_per_part": images_per_part}
    claim(place, {"model": fingerprint, "options": options, "images": source})
    actors = dict(concurrency=concurrency, num_gpus=num_gpus, num_cpus=num_cpus)
    if dataset is None:
        found = _score_parts(listing, job, actors, progress)
    else:
        found = _score_rows(dataset, job, images_per_part, actors, progress)
    place.remove_unfinished()
    images_written, parts, resumed, unreadable, further = found
    further.warn("images")
    seconds = time.perf_counter() - begun
    return RunSummary(place.name, images_written, parts, resumed, unreadable, further.pictures, seconds)


_SCORES_DEPEND_ON = (
    "device",
    "batch_size",
    "max_pixels",
    "maps",
    "skip_bad",
    "threshold",
    "pixel_threshold",
    "image_column",
    "name_column",
)


def _score_parts(listing: Listing, job: Job, actors: dict[str, Any], progress: bool) -> tuple[int, int, int, int, Further]:
    """Images, parts, parts that were there, images found unreadable, and pages or frames left out."""
    there = {os.path.basename(info.path) for info in job.output.files(recursive=False)}
    left = [i for i in range(len(listing.parts)) if part_file(i) not in there]
    unreadable, further = 0, Further()
    with progress_bar(listing.images, "score", progress) as bar:
        bar.update(listing.images - sum(len(listing.parts[i]) for i in left))
        if left:
            pool = _pool(actors, len(left), reserved=0)
            rows = [{"number": i, "part": ray.cloudpickle.dumps(listing.parts[i])} for i in left]
            blocks = min(len(rows), max(BLOCKS_PER_ACTOR * pool["compute"].max_size, 1))
            work = ray.data.from_items(rows, override_num_blocks=blocks)
            for answer in _answers(work.map_batches(PartScorer, batch_size=1, fn_constructor_args=(job,), **pool)):
                unreadable += answer["unreadable"]
                further += Further(answer["pictures"], answer["example"])
                bar.update(answer["images"])
    there = {os.path.basename(info.path) for info in job.output.files(recursive=False)}
    missing = [part_file(i) for i in left if part_file(i) not in there]
    if missing:
        raise EngineError(f"{len(missing)} parts were not written, the first is {missing[0]}; run it again")
    return listing.images, len(listing.parts), len(listing.parts) - len(left), unreadable, further


def _score_rows(
    dataset: ray.data.Dataset, job: Job, images_per_part: int, actors: dict[str, Any], progress: bool
) -> tuple[int, int, int, int, Further]:
    """As _score_parts. Names tell what is done, since nothing else about a dataset's rows is the same from run to run."""
    there = _parts_in(job.output)
    done = set(_names(job.output, there))
    if done:
        kept = ray.put(done)
        column = cast(str, job.name_column)  # check_column's

        def left(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            known = ray.get(kept)
            keep = np.array([str(name) not in known for name in batch[column]], dtype=np.bool_)
            return {name: values[keep] for name, values in batch.items()}

        dataset = dataset.map_batches(left, batch_size=None)
    unreadable, further = 0, Further()
    pool = _pool(actors, None, reserved=1)  # one CPU must be left for reading, or nothing ever arrives
    with progress_bar(None, "score", progress) as bar:
        bar.update(len(done))
        scorer = dataset.map_batches(RowScorer, batch_size=images_per_part, fn_constructor_args=(job,), **pool)
        for answer in _answers(scorer):
            unreadable += answer["unreadable"]
            further += Further(answer["pictures"], answer["example"])
            bar.update(answer["images"])
    files = _parts_in(job.output)
    names = _names(job.output, files)
    if len(set(names)) != len(names):
        raise InputError(
            f"name_column: names must be unique, but of {len(names)} images in {job.output.name} {len(names) - len(set(names))} "
            "share one with another; a resumed run would leave them out"
        )
    return len(names), len(files), len(there), unreadable, further


def _answers(results: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """What the actors report, as it comes. Raises the first error that one reports, or EngineError where workers died."""
    results.context.enable_progress_bars = False  # there is one already, over images
    results.context.print_on_execution_start = False
    try:
        with closing(iter(results.iter_rows())) as rows:
            for answer in rows:
                if answer["error"]:
                    raise ray.cloudpickle.loads(answer["error"])
                yield answer
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray gave the run up; what is written stays, and the run can be repeated: {error}") from error


def _pool(actors: dict[str, Any], work: int | None, reserved: int) -> dict[str, Any]:
    """Options of map_batches for the actors. work: no more of them are of use. reserved: CPUs that others need."""
    gpus, cpus = actors["num_gpus"], actors["num_cpus"]
    fewest, most = _bounds(actors["concurrency"])
    if most is None:
        there = ray.cluster_resources()
        fits = there.get("GPU", 0) // gpus if gpus else (there.get("CPU", 0) - reserved) // cpus
        fewest = most = max(1, int(fits))
    if reserved and not gpus:
        total = float(ray.cluster_resources().get("CPU", 0))
        if fewest == 1 and total >= reserved:
            cpus = min(cpus, total - reserved)  # 0 on a machine of one CPU: reading and scoring share it
        if fewest * cpus + reserved > total:
            raise InputError(
                f"concurrency and num_cpus: {fewest} actors of {cpus:g} CPUs leave none of the cluster's {total:g} CPUs for reading "
                "the dataset, so nothing would ever arrive; pass fewer or smaller actors"
            )
        most = max(fewest, min(most, int((total - reserved) // cpus))) if cpus else fewest
    if work is not None:
        fewest, most = min(fewest, work), min(most, work)
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=fewest, max_size=most, max_tasks_in_flight_per_actor=2),
        "num_gpus": gpus or None,
        "num_cpus": cpus,
    }


def _bounds(concurrency: int | tuple[int, int] | None) -> tuple[int, int | None]:
    if concurrency is None:
        return 1, None
    pair = (concurrency, concurrency) if isinstance(concurrency, int) else tuple(concurrency)
    if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in pair) or not 1 <= pair[0] <= pair[1]:
        raise InputError(f"concurrency must be a number of actors from 1 up, or (fewest, most); got {concurrency!r}")
    return pair


def _connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine, unless the caller has done so."""
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with keeps_handler():
            ray.init(include_dashboard=False, log_to_driver=False) if "RAY_ADDRESS" not in os.environ else ray.init()


def _usual_gpus() -> int:
    return int(bool(build_info()["cuda_architectures"]) and ray.cluster_resources().get("GPU", 0) >= 1)


def _parts_in(output: Place) -> list[Place]:
    return [output.at(info.path) for info in output.files(recursive=False) if info.path.endswith(".parquet")]


def _names(output: Place, parts: Sequence[Place]) -> list[str]:
    found: list[str] = []
    for part in parts:
        found += pq.read_table(part.path, filesystem=part.filesystem, columns=["name"]).column("name").to_pylist()
    return found
