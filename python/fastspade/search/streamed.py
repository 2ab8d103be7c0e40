"""`pyramid_knn` over a gallery that is read in parts, so that it may be larger than memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastspade.errors import DtypeError, InputError
from fastspade.search import ops
from fastspade.search.levels import Levels, image_bytes
from fastspade.search.streaming import PART_BYTES, merge_nearest, parts_of, read_ahead, search_streamed
from fastspade.search.validation import (
    PRECISIONS,
    UPSAMPLES,
    check_choice,
    check_gallery_index,
    check_kappa,
    check_pair,
    check_pyramid,
)


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
    """The contract of `pyramid_knn`, to the same bits. Images that gallery_index does not name are not read. With queries on
    CUDA it may be in host memory; on the device its values are copied back first, which waits for them."""
    queries = check_pyramid("query", query)
    source, device = gallery.source, queries[0].device
    # Tensors that have the gallery's shapes and take no memory.
    stand_in = [torch.empty(1, dtype=source.dtype).expand(len(source), *shape) for shape in source.shapes]
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
        distances, indices, _ = search_streamed(
            source,
            kappa,
            gallery_index,
            device,
            lambda levels, index, reach: ops.search(queries, levels, None, reach, index, upsample, precision, "float16"),
            part_bytes=gallery.part_bytes,
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
    tasks: list[tuple[int | None, torch.Tensor]]
    if gallery_index is None:
        tasks = [(None, part) for part in parts_of(source, torch.arange(len(source)), gallery.part_bytes)]
    else:
        low, high = int(gallery_index.min()), int(gallery_index.max())
        if low < 0 or high >= len(source):
            raise InputError(f"gallery_index must lie in [0, {len(source)}), the gallery's images; got values from {low} to {high}")
        ascending = [row.sort().values for row in gallery_index]
        tasks = [(b, part) for b, row in enumerate(ascending) for part in parts_of(source, row, gallery.part_bytes)]
    coming = read_ahead(source, [part for _, part in tasks])
    answers: dict[int | None, tuple[torch.Tensor, torch.Tensor]] = {}
    for b, part in tasks:
        levels = next(coming)
        asked = query if b is None else [level[b : b + 1] for level in query]
        reach = min(kappa, len(part) * pixels)
        distances, indices, _ = ops.search(asked, levels, None, reach, None, upsample, "exact", "float16")
        del levels
        indices = part[indices // pixels] * pixels + indices % pixels
        known = answers.get(b)
        answers[b] = (distances, indices) if known is None else merge_nearest(*known, distances, indices, kappa)
    return torch.cat([found[0] for found in answers.values()]), torch.cat([found[1] for found in answers.values()])
