"""SPADE with its bank split over processes: scores and maps bit-identical to one process with the whole bank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from fastspade.backbones import Backbone
from fastspade.backbones.extractor import Features, FeatureStream, thinned
from fastspade.bank import Bank, Snapshot
from fastspade.bank.snapshot import check_storage_dtype
from fastspade.bank.stored import write_bank
from fastspade.distributed.bank import ShardedBank, share
from fastspade.distributed.images import SharedSource
from fastspade.distributed.matching import ShardedMatcher, ShardedResident
from fastspade.distributed.ranks import Ranks
from fastspade.errors import ImageReadError, InputError
from fastspade.images import ImageSource
from fastspade.spade import Spade
from fastspade.spade.matching import Matcher
from fastspade.spade.options import names

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastspade.images.entry import Images
    from fastspade.spade.options import OptionsDict

TIMEOUT = 300.0  # seconds


class DistributedSpade(Spade):
    """A Spade whose bank is split over the ranks of torch.distributed, for banks that fit no single one.

    Start the script with torchrun, call torch.distributed.init_process_group ("gloo" for CPUs, "nccl" for GPUs, one per
    process), then use it as a Spade: every rank makes the same calls in the same order, and every rank gets the whole
    result. `fit` splits the normal images over the ranks (all ranks must be able to read them); `load` keeps this rank's part
    of a saved model. `score` scores the images that rank 0 was given and sends them to the others, whose argument is
    ignored (None will do); pictures for overlays stay on rank 0.

    Options are Spade's, but for tile, per_level, and window with kappa > 1.
    timeout: seconds that a rank waits for the others; then, or when one dies, it raises RankError. Longer than any rank takes for
    one batch, or its share of fit.
    """

    # Spade's methods work on its parts through a few of their attributes, which those of a sharded bank have too.
    bank: ShardedBank | None  # type: ignore[assignment]  # in place of a Bank
    _device_bank: ShardedResident | None  # type: ignore[assignment]  # in place of a DeviceBank

    def __init__(
        self,
        backbone: str | torch.nn.Module | Backbone | None = None,
        *,
        timeout: float = TIMEOUT,
        **options: Unpack[OptionsDict],
    ) -> None:
        self.ranks = Ranks(timeout)
        super().__init__(backbone, **options)
        for name in ("tile", "per_level"):
            if getattr(self, name) not in (None, False):
                raise InputError(f"{name} is not for a bank split over processes; use fastspade.Spade, or fastspade.ray to score")
        self.settings = replace(self.settings, progress=self.progress and self.ranks.rank == 0)

    def fit(  # type: ignore[override]  # Spade's has a path: to a folder that only one process may write
        self, normal_images: Images, *, skip_bad: bool = False
    ) -> DistributedSpade:
        """As Spade.fit; rank r extracts and keeps the r-th of equal runs of `normal_images`, which every rank names alike."""

        def own() -> tuple[Bank | None, FeatureStream, list[tuple[str, Exception]]]:
            source = self.new_extractor().open(normal_images, skip_bad=skip_bad, argument="normal_images", augmented=True)
            extractor = self.new_extractor().ready(source)  # from all images, and so alike on all ranks
            start, stop = share(source.total or 0, self.ranks)
            source = source.part(start, stop)
            stream = FeatureStream(extractor, source, "fit", start * (1 + len(self.augment)))
            parts: list[Features] = []
            try:
                parts += stream if source.total else []
            except ImageReadError:
                if not skip_bad:  # else none of this rank's is readable, which is no error if another rank has some
                    raise
            bank = (
                Bank.collect(parts, storage_dtype=check_storage_dtype(self.storage_dtype), extractor=extractor) if parts else None
            )
            return bank, stream, list(source.skipped)

        bank, stream, skipped = self.ranks.together("fit", own)
        sharded = ShardedBank(bank, self.ranks)
        self.check_kappa(len(sharded), sharded.level_shapes)
        skipped = [one for part in self.ranks.gather("skipped images", skipped) for one in part]
        mirrored, _ = thinned([one for part in self.ranks.gather("mirrored images", stream.mirrored.found) for one in part])
        self._learned(sharded, stream.extractor, skipped, mirrored)  # type: ignore[arg-type]  # in place of a Bank
        return self

    @classmethod
    def load(cls, path: str | Path, *, timeout: float = TIMEOUT, **options: Any) -> DistributedSpade:
        """As Spade.load, on every rank; each keeps its part of the normal images."""
        whole = Ranks(timeout).together("opening the model", lambda: Spade.load(path, **options))
        model = cls(
            whole.backbone,
            timeout=timeout,
            **{name: getattr(whole, name) for name in names("model", "running")},
        )
        model.bank, model.threshold = ShardedBank.part_of(whole.fitted_bank(), model.ranks), whole.threshold
        model.ceiling, model.border, model.foreground = whole.ceiling, whole.border, whole.foreground
        model.shared_size = whole.shared_size
        return model

    def save(self, path: str | Path) -> None:
        """As Spade.save, by rank 0. Into a folder the images go batch by batch; for one file (.safetensors) the whole bank is
        brought together, which must fit in each rank's memory."""
        bank, options = cast(ShardedBank, self.fitted_bank()), self.record()
        if Path(path).suffix == ".safetensors":
            whole = bank.gathered()
            self.ranks.together("saving", lambda: self._save_whole(whole, path) if self.ranks.rank == 0 else None)
            return
        parts = bank.batches()

        def write() -> None:
            try:
                if self.ranks.rank == 0:
                    write_bank(path, parts, self.storage_dtype, ids=bank.ids, next_id=bank.next_id,
                               options=options, made_by=self.extractor.spec())  # fmt: skip
            finally:
                for _ in parts:  # every rank sends its images, even where they fail elsewhere
                    pass

        self.ranks.together("saving", write)

    def _save_whole(self, bank: Bank, path: str | Path) -> None:
        model = Spade(self.backbone, device=self.device, **self.options())
        model.bank, model.threshold, model.ceiling, model.border = bank, self.threshold, self.ceiling, self.border
        model.shared_size, model.foreground = self.shared_size, self.foreground
        model.save(path)

    # -- what of Spade depends on where the bank is

    def _open_here(self, images: Images, skip_bad: bool, argument: str) -> ImageSource:
        return super()._open(images, skip_bad, argument)

    def _open(  # type: ignore[override]  # a SharedSource has what Spade asks of an ImageSource
        self, images: Images, skip_bad: bool, argument: str
    ) -> SharedSource:
        return SharedSource(self.ranks, lambda: self._open_here(images, skip_bad, argument))

    def features(self, pixels: torch.Tensor, inside: torch.Tensor | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Every rank extracts some of the images; an image's features do not depend on those that come with it."""
        ranks, device = self.ranks, self.search_device
        start, stop = share(len(pixels), ranks)
        own = None if inside is None else inside[start:stop]
        found = ranks.together("features", lambda: self.extractor(pixels[start:stop], own) if start < stop else None)
        mine = None if found is None else [found[0], *found[1]]
        told = ranks.gather("features", None if mine is None else [tuple(tensor.shape) for tensor in mine])
        parts = [
            ranks.broadcast_tensors("features", mine if rank == ranks.rank else None, shapes, rank, device=device)
            for rank, shapes in enumerate(told)
            if shapes is not None
        ]
        embeddings, *pyramid = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return embeddings, pyramid

    def device_bank(self, bank: ShardedBank) -> ShardedResident:  # type: ignore[override]  # for ShardedMatcher alone
        known, wanted = self._device_bank, (self.search_device, self.upsample, self.memory_limit)
        if known is None or known.bank is not bank or known.options != wanted:
            known = self._device_bank = ShardedResident(bank, *wanted)
        return known

    def matcher(  # type: ignore[override]  # it asks for the bank's length
        self, bank: ShardedBank, left_out: int = 0, border: bool = True
    ) -> Matcher:
        plain = super().matcher(cast(Snapshot, bank), left_out, border)
        return ShardedMatcher(**vars(plain))
