"""Pictures of anomaly maps: laid over the photograph, with outlines and a colour bar."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from fastspade.errors import InputError
from fastspade.images.decode import decode, to_show
from fastspade.images.geometry import CropBox
from fastspade.maps.colors import color_table, heatmap, scale_of
from fastspade.maps.process import Map, check_maps, inside, to_tensor

UNSEEN = 0.4  # brightness of what the network did not see


def overlay(
    image: str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor,
    anomaly_map: Map,
    *,
    alpha: float = 0.7,
    vmin: float | None = None,
    vmax: float | None = None,
    mask: Map | None = None,
    seen: CropBox | None = None,
    colorbar: bool = False,
) -> Image.Image:
    """The image with its map laid over it -> RGB PIL image of the image's size (wider with a colour bar).

    image: any one picture that fastspade reads. anomaly_map: (H, W) of the same size (see place_in_image).
    alpha: the weight of the highest value's colour, 0 to 1. Lower values weigh less, in proportion, so that the photograph
    stays readable where nothing is found; where the map is NaN it is as it was. vmin, vmax: as in heatmap.
    mask: (H, W), non-zero where a defect is; its outline is drawn in green. seen: the part that the network saw; the rest
    is dimmed. colorbar: adds the scale on the right.
    """
    picture = to_show(decode(image))
    values = check_maps(anomaly_map, finite=False)
    size: tuple[int, int] = (picture.height, picture.width)
    if tuple(values.shape) != size:
        raise InputError(
            f"anomaly_map must have the image's size {size[0]}x{size[1]}, got {tuple(values.shape)}; use place_in_image"
        )
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must lie between 0 and 1, got {alpha}")
    known = values.cpu().numpy()
    low, high = scale_of(known, vmin, vmax)
    colors = heatmap(values, vmin=low, vmax=high).astype(np.float32)
    risen = ((known.astype(np.float64) - low) / ((high - low) or 1.0)).clip(0, 1)
    weight = np.where(np.isnan(known), 0.0, alpha * risen)[..., None].astype(np.float32)
    blended = np.asarray(picture, dtype=np.float32) * (1 - weight) + colors * weight
    if seen is not None:
        blended[~inside(seen, size).numpy()] *= UNSEEN
    blended = np.rint(blended).astype(np.uint8)
    if mask is not None:
        region = to_tensor("mask", mask).cpu()
        if region.shape != size:
            raise InputError(f"mask must have the image's size {size[0]}x{size[1]}, got {tuple(region.shape)}")
        blended[_outline(region != 0, max(1, min(size) // 150)).numpy()] = (0, 255, 0)
    drawn = Image.fromarray(blended)
    return _with_colorbar(drawn, low, high) if colorbar else drawn


def _outline(region: torch.Tensor, thickness: int) -> torch.Tensor:
    """(H, W) bool: pixels of the region at most ``thickness`` from its outside; the image's edge is no outline."""
    outside = (~region).float()[None, None]
    grown = F.max_pool2d(outside, 2 * thickness + 1, stride=1, padding=thickness)[0, 0] > 0
    return grown & region


def colorbar(vmin: float, vmax: float, *, height: int = 256, width: int = 0) -> Image.Image:
    """A vertical scale on white, highest value on top, three labels -> RGB PIL image. width: of the bar (0: by height)."""
    low, high = scale_of(np.empty(0), vmin, vmax)
    font, line = ImageFont.load_default(), 12
    labels = [f"{value:.3g}" for value in (high, (low + high) / 2, low)]
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    gap, bar = 4, width or max(8, height // 24)
    text = math.ceil(max(ruler.textlength(label, font=font) for label in labels))
    canvas = Image.new("RGB", (gap + bar + gap + text + gap, height), "white")
    ramp = np.linspace(255, 0, height).round().astype(np.uint8)
    canvas.paste(Image.fromarray(np.repeat(color_table()[ramp][:, None], bar, axis=1)), (gap, 0))
    draw = ImageDraw.Draw(canvas)
    for label, share in zip(labels, (0, 0.5, 1)):
        draw.text((gap + bar + gap, round(share * max(0, height - line))), label, fill="black", font=font)
    return canvas


def _with_colorbar(picture: Image.Image, low: float, high: float) -> Image.Image:
    """The picture with the scale at its right."""
    scale = colorbar(low, high, height=picture.height, width=max(8, picture.width // 24))
    canvas = Image.new("RGB", (picture.width + scale.width, picture.height), "white")
    canvas.paste(picture, (0, 0))
    canvas.paste(scale, (picture.width, 0))
    return canvas
