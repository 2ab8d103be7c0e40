"""Where maps and masks are compared.

paper: at what the network saw (in the paper images resized to 256, the central 224 cut; SPADE, section 4). Masks are brought
there by nearest neighbour. official: at every image's own size, as the MVTec AD evaluation does; maps of the crop are
put back into the image, and pixels outside the crop have the map's lowest value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fastspade import maps
from fastspade.images.geometry import CropBox
from fastspade.images.region import cut_mask

PROTOCOLS = ("paper", "official")


def describe(protocol: str, resize: object, crop: object) -> str:
    """One line that names what was compared, for results and reports. resize, crop: as of Spade."""
    if protocol == "paper":
        seen = "whole images" if crop is None else f"the central {_sides(crop)} of images"
        size = f"to {_sides(resize)}" if isinstance(resize, tuple) else f"to {resize}" if resize != "whole" else "to one size"
        return f"paper: maps and masks at {seen} resized {size}"
    return "official: maps and masks at every image's original size"


def _sides(value: object) -> str:
    return "{} x {}".format(*(value if isinstance(value, tuple) else (value, value)))


def crop_mask(mask: np.ndarray, crop: CropBox, side: Sequence[int]) -> np.ndarray:
    """(H, W) bool of the whole image -> (side) bool of the crop: the mask's pixel under every crop pixel's centre."""
    size = (mask.shape[0], mask.shape[1])
    return cut_mask(mask, crop, size, (side[0], side[1]))


def placed_map(crop_map: np.ndarray, crop: CropBox, size: tuple[int, int]) -> np.ndarray:
    """The map of the crop at the image's own size, (H, W) float32."""
    return maps.place_in_image(torch.from_numpy(crop_map), crop, size).numpy()
