"""What the files of this package ask of a fitted Spade, which builds on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from fastspade.backbones.extractor import Extractor
from fastspade.backbones.foreground import Foreground
from fastspade.bank import Bank, Snapshot
from fastspade.search.levels import Shape
from fastspade.spade.device_bank import DeviceBank
from fastspade.spade.matching import Matcher
from fastspade.spade.origins import Origins
from fastspade.spade.relative import Ceiling
from fastspade.spade.threshold import Threshold


class FittedModel(Protocol):
    """A fitted Spade: what `fit` and `calibrate` found, and its options as far as they are asked for."""

    bank: Bank | None
    shared_size: tuple[int, int] | None
    threshold: Threshold | None
    foreground: Foreground | None
    border: torch.Tensor | None
    ceiling: Ceiling | None
    skipped: list[tuple[str, Exception]]

    @property
    def image_score(self) -> str: ...
    @property
    def k(self) -> int: ...
    @property
    def k_image(self) -> int | None: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def progress(self) -> bool: ...
    @property
    def keep_crop(self) -> bool: ...
    @property
    def tile(self) -> tuple[int, int] | None: ...
    @property
    def roi(self) -> Any: ...
    @property
    def input_size(self) -> tuple[int, int]: ...
    @property
    def search_device(self) -> torch.device: ...
    @property
    def extractor(self) -> Extractor: ...
    def options(self) -> dict[str, Any]: ...
    def fitted_bank(self) -> Bank: ...
    def check_kappa(self, images: int, shapes: Sequence[Shape]) -> None: ...
    def features(self, pixels: torch.Tensor, inside: torch.Tensor | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]: ...
    def matcher(self, bank: Snapshot, left_out: int = 0, border: bool = True) -> Matcher: ...
    def origins_of(self, bank: Snapshot) -> Origins | None: ...
    def device_bank(self, bank: Snapshot) -> DeviceBank: ...
