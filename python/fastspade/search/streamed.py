"""Searching a gallery that is not where the queries are, or not in memory: images are brought over in parts, the next part
while one is searched.

Every part's answer is exact and ordered by (float32 distance, index), so the kappa smallest of the parts' answers are the
answer over all of it, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch

from fastspade.errors import DtypeError, InputError
from fastspade.search import ops
from fastspade.search.cuda import search_cuda
from fastspade.search.levels import Levels, MemoryLevels, image_bytes
from fastspade.search.validation import (
    PRECISIONS,
    UPSAMPLES,
    check_answer,
    check_choice,
    check_gallery_index,
    check_kappa,
    check_pair,
    check_pyramid,
)

Search = Callable[[list[torch.Tensor], "torch.Tensor | None", int], ops.Answer]

# Bytes of one part. On a device two are held at a time, each with its 16-bit copy, so about three times this is used; on
# the CPU two are held.
PART_BYTES = 256 << 20


def merge_nearest(
    distances: torch.Tensor, indices: torch.Tensor, more: torch.Tensor, more_indices: torch.Tensor, kappa: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kappa nearest of two results (rows, any), NaN before all numbers. Ties go to the first one, whose images must precede
    the second's."""
    joined = torch.cat([distances, more], dim=1)
    places = torch.where(joined.isnan(), -1.0, joined).argsort(dim=1, stable=True)[:, :kappa]
    return joined.gather(1, places), torch.cat([indices, more_indices], dim=1).gather(1, places)


def parts_of(source: Levels, wanted: torch.Tensor, part_bytes: int) -> list[torch.Tensor]:
    return list(wanted.split(max(1, part_bytes // image_bytes(source))))


def positions_within(part: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """(1, n): where, in the ascending images of a part, those that a row of gallery_index names are; as often as it does."""
    return torch.searchsorted(part, row[torch.isin(row, part)])[None]


def read_ahead(source: Levels, parts: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The levels of each part, the next one read by a thread meanwhile. No more than two are held, if the caller drops one
    before it asks for the next."""
    with ThreadPoolExecutor(1, thread_name_prefix="fastspade-read") as reader:
        number = 0
        coming: Future[list[torch.Tensor]] | None = reader.submit(source.gather, parts[0])
        while coming is not None:
            levels = coming.result()
            number += 1
            coming = reader.submit(source.gather, parts[number]) if number < len(parts) else None
            yield levels
            del levels


@cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    """One per device: torch caches memory by stream, so that a new one per search would reserve it many times over."""
    return torch.cuda.Stream(device)


class _Conveyor:
    """Copies parts of a gallery to a device ahead of their use, through pinned memory, on a stream of their own."""

    def __init__(self, source: Levels, parts: list[torch.Tensor], device: torch.device) -> None:
        self.source, self.parts, self.device = source, parts, device
        self.host = source.whole
        index = torch.cuda.current_device() if device.index is None else device.index
        self.stream = _copying_stream(torch.device("cuda", index))
        self.pinned: list[list[torch.Tensor] | None] = [None, None]
        self.copied: list[torch.cuda.Event | None] = [None, None]

    def _send(self, number: int) -> tuple[list[torch.Tensor], torch.cuda.Event]:
        images, turn = self.parts[number], number % 2
        contiguous = int(images[-1] - images[0]) + 1 == len(images)
        if self.host and contiguous and all(level.is_pinned() for level in self.host):
            sources = [level[int(images[0]) : int(images[-1]) + 1] for level in self.host]
        else:
            event = self.copied[turn]
            if event is not None:
                event.synchronize()  # the staging memory is free again once its last copy has left
            pinned = self.pinned[turn]
            if pinned is None:
                types = [level.dtype for level in self.host] if self.host else [self.source.dtype] * len(self.source.shapes)
                pinned = self.pinned[turn] = [
                    torch.empty((len(self.parts[0]), *shape), dtype=dtype, pin_memory=True)
                    for shape, dtype in zip(self.source.shapes, types, strict=True)
                ]
            sources = [stage[: len(images)] for stage in pinned]
            if self.host:
                for level, stage in zip(self.host, sources, strict=True):
                    torch.index_select(level, 0, images, out=stage)
            else:
                for level, stage in zip(self.source.gather(images), sources, strict=True):
                    stage.copy_(level)
        with torch.cuda.stream(self.stream):
            sent = [source.to(self.device, non_blocking=True) for source in sources]
            event = torch.cuda.Event()
            event.record(self.stream)
        self.copied[turn] = event
        return sent, event

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        current = torch.cuda.current_stream(self.device)
        waiting = self._send(0)
        for number in range(len(self.parts)):
            levels, event = waiting
            current.wait_event(event)
            for level in levels:
                level.record_stream(current)
            # The next part travels while this one is searched.
            ahead = self._send(number + 1) if number + 1 < len(self.parts) else None
            yield levels
            if ahead is not None:
                waiting = ahead


def _sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Host values on the device. Through pinned memory: a copy from other memory would wait for all that the stream has to do."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def search_streamed(
    gallery: list[torch.Tensor] | Levels,
    kappa: int,
    gallery_index: torch.Tensor | None,
    device: torch.device,
    search: Search,
    *,
    part_bytes: int | None = None,
) -> ops.Answer:
    """Runs `search(levels, gallery_index, kappa)` over parts of a gallery and merges the results.

    `search` answers with indices into the part, and skips negative entries of gallery_index; part_bytes bounds a part, None
    is PART_BYTES. gallery_index may be on the device or the host, which must know what to bring: values on the device are
    copied back, and that is the one wait here for what the device has to do. Beyond it, staging memory of galleries that are not
    pinned is filled anew only when its last copy has left.
    """
    stored: Levels = MemoryLevels(gallery) if isinstance(gallery, list) else gallery
    images = len(stored)
    pixels = stored.shapes[0][1] * stored.shapes[0][2]
    wanted = torch.arange(images, device="cpu")
    if gallery_index is not None:
        named = gallery_index.cpu().unique()  # no copy, and no wait, where it is on the host
        if gallery_index.device != device:
            gallery_index = _sent(gallery_index, device)
        named = named[(named >= 0) & (named < images)]
        wanted = named if len(named) else wanted[:1]  # where no entry names an image, one is searched for none of the queries
    parts = parts_of(stored, wanted, PART_BYTES if part_bytes is None else part_bytes)
    places = (torch.arange(images, device=device) if gallery_index is None else _sent(wanted, device)).split(len(parts[0]))
    if device.type == "cuda":
        source: Iterator[list[torch.Tensor]] = iter(_Conveyor(stored, parts, device))
    else:
        source = read_ahead(stored, parts)
    answer = None
    for part in places:
        levels = next(source)
        part_index = None
        if gallery_index is not None:
            # Positions within the part; images of other parts are skipped by a negative entry.
            position = torch.full((images,), -1, dtype=torch.int64, device=device)
            position[part] = torch.arange(len(part), device=device)
            inside = (gallery_index >= 0) & (gallery_index < images)
            part_index = torch.where(inside, position[gallery_index.clamp(0, images - 1)], -1)
        reach = min(kappa, len(part) * pixels if part_index is None else part_index.shape[1] * pixels)
        distances, indices, counters = search(levels, part_index, reach)
        del levels
        image = part[(indices // pixels).clamp_min(0)]
        indices = torch.where(indices >= 0, image * pixels + indices % pixels, -1)
        if answer is None:
            answer = distances, indices, counters
        else:
            answer = (*merge_nearest(answer[0], answer[1], distances, indices, kappa), answer[2] + counters)
    assert answer is not None  # a gallery has at least one image, so there is at least one part
    return answer


def search_from_host(
    query: list[torch.Tensor],
    gallery: list[torch.Tensor] | Levels,
    kappa: int,
    gallery_index: torch.Tensor | None,
    upsample: str,
    precision: str,
    operand: str,
    *,
    part_bytes: int | None = None,
) -> ops.Answer:
    """Queries on CUDA against a gallery that is not: search_streamed, with one wait for the whole answer to be checked."""

    def search(levels: list[torch.Tensor], index: torch.Tensor | None, reach: int) -> ops.Answer:
        exact, bfloat16 = precision == "exact", ops.is_bfloat16(operand)
        return search_cuda(query, levels, None, reach, index, UPSAMPLES[upsample], exact, bfloat16, check=False)

    answer = search_streamed(gallery, kappa, gallery_index, query[0].device, search, part_bytes=part_bytes)
    stored = gallery if isinstance(gallery, list) else gallery.whole or ()  # a bank's folder checks what it reads
    check_answer(answer[0], answer[1], query, stored, gallery_index)
    return answer


class StreamedGallery:
    """A gallery that is read as searches need it.

    source: where it is read from; memory_limit: bytes of gallery features held at once, on the searches' device and on the
    host alike. None: about 512 MiB on the CPU, 1 GiB on CUDA. Raises InputError where it is too little.
    """

    def __init__(self, source: Levels, memory_limit: int | None = None, *, device: str | torch.device = "cpu") -> None:
        if isinstance(memory_limit, bool) or not isinstance(memory_limit, (int, type(None))):
            raise DtypeError(f"memory_limit must be a number of bytes or None, got {type(memory_limit).__name__}")
        self.source = source
        # On the CPU one part is searched while the next is read. On CUDA each of the two has its 16-bit copy beside it, and
        # the host holds what is read and two pinned buffers.
        held = 2 if torch.device(device).type == "cpu" else 4
        self.part_bytes = PART_BYTES if memory_limit is None else memory_limit // held
        if memory_limit is not None and self.part_bytes < image_bytes(source):
            raise InputError(
                f"memory_limit must hold the features of {held} images, {held * image_bytes(source)} bytes; got {memory_limit}"
            )

    def __len__(self) -> int:
        return len(self.source)


def streamed_pyramid_knn(
    query: Sequence[torch.Tensor],
    gallery: StreamedGallery,
    kappa: int,
    *,
    gallery_index: torch.Tensor | None = None,
    upsample: str = "bilinear",
    precision: str = "exact",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The contract of `pyramid_knn`, bit-identical. Images that gallery_index does not name are not read. With queries on
    CUDA it may be in host memory; on the device its values are copied back first, which waits for them."""
    queries = check_pyramid("query", query)
    source, device = gallery.source, queries[0].device
    # Tensors that have the gallery's shapes and take no memory.
    stand_in = [torch.empty(1, dtype=source.dtype, device="cpu").expand(len(source), *shape) for shape in source.shapes]
    check_pair(queries, check_pyramid("gallery", stand_in))
    check_choice("upsample", upsample, list(UPSAMPLES))
    check_choice("precision", precision, PRECISIONS)
    images, (height, width) = len(source), queries[0].shape[2:]
    if gallery_index is not None:
        gallery_index = check_gallery_index(gallery_index, len(queries[0]), device, streamed=True)
        images = gallery_index.shape[1]
    kappa = check_kappa(kappa, images * height * width, "pixels")
    if device.type == "cpu":
        distances, indices = _on_cpu(queries, gallery, kappa, gallery_index, upsample)
    else:
        distances, indices, _ = search_from_host(
            queries, source, kappa, gallery_index, upsample, precision, "float16", part_bytes=gallery.part_bytes
        )
    shape = (len(queries[0]), height, width, kappa)
    return distances.reshape(shape), indices.reshape(shape)


def _on_cpu(
    query: list[torch.Tensor], gallery: StreamedGallery, kappa: int, gallery_index: torch.Tensor | None, upsample: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Query images are taken one by one, as the engine takes them anyway, each with the parts of its own gallery images: what
    is read is what it is compared with. Without a gallery_index every part is searched for all of them."""
    source = gallery.source
    pixels = source.shapes[0][1] * source.shapes[0][2]
    tasks: list[tuple[int | None, torch.Tensor]] = []
    if gallery_index is None:
        tasks = [(None, part) for part in parts_of(source, torch.arange(len(source), device="cpu"), gallery.part_bytes)]
    else:
        low, high = int(gallery_index.min()), int(gallery_index.max())
        if low < 0 or high >= len(source):
            raise InputError(
                f"gallery_index must lie in [0, {len(source)}), the gallery's images; got values from {low} to {high}"
            )
        tasks = [(b, part) for b, row in enumerate(gallery_index) for part in parts_of(source, row.unique(), gallery.part_bytes)]
    coming = read_ahead(source, [part for _, part in tasks])
    answers: dict[int | None, tuple[torch.Tensor, torch.Tensor]] = {}
    for b, part in tasks:
        levels = next(coming)
        asked = query if b is None else [level[b : b + 1] for level in query]
        index = None if b is None or gallery_index is None else positions_within(part, gallery_index[b])
        reach = min(kappa, len(part if index is None else index[0]) * pixels)
        distances, indices, _ = ops.search(asked, levels, None, reach, index, upsample, "exact", "float16")
        del levels
        indices = part[indices // pixels] * pixels + indices % pixels
        known = answers.get(b)
        answers[b] = (distances, indices) if known is None else merge_nearest(*known, distances, indices, kappa)
    return torch.cat([found[0] for found in answers.values()]), torch.cat([found[1] for found in answers.values()])
