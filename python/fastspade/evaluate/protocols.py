"""Where maps and masks are compared.

paper: at the crop the network saw (images resized to 256, the central 224 cut; SPADE, section 4). Masks are brought
there by nearest neighbour. official: at every image's own size, as the MVTec AD evaluation does; maps of the crop are
put back into the image and pixels outside the crop take the map's edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fastspade import maps
from fastspade.images.geometry import CropBox

PROTOCOLS = ("paper", "official")


def describe(protocol: str, resize: int, crop: int) -> str:
    """One line that names what was compared, for results and reports."""
    if protocol == "paper":
        return f"paper: maps and masks at the central {crop} x {crop} of images resized to {resize}"
    return "official: maps and masks at every image's original size"


def crop_mask(mask: np.ndarray, crop: CropBox, side: Sequence[int]) -> np.ndarray:
    """(H, W) bool of the whole image -> (side) bool of the crop: the mask's pixel under every crop pixel's centre."""
    height, width = mask.shape
    rows = np.floor(crop.top + (np.arange(side[0]) + 0.5) * crop.height / side[0]).astype(np.int64)
    columns = np.floor(crop.left + (np.arange(side[1]) + 0.5) * crop.width / side[1]).astype(np.int64)
    cut: np.ndarray = mask[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
    return cut


def placed_map(crop_map: np.ndarray, crop: CropBox, size: tuple[int, int]) -> np.ndarray:
    """The map of the crop at the image's own size, (H, W) float32."""
    return maps.place_in_image(torch.from_numpy(crop_map), crop, size).numpy()
