"""Raw anomaly maps as files: float32 .npy, or 16-bit TIFF for viewers and for the official evaluation scripts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from fastspade.errors import InputError

FORMATS = ("tiff", "npy")
_DESCRIPTION = 270  # the TIFF tag ImageDescription


def write_map(path: Path, values: np.ndarray, kind: str, scale: tuple[float, float]) -> None:
    """Write one map (H, W).

    kind: "npy" keeps float32 as it is; "tiff" stores round(65535 * (value - low) / (high - low)) as uint16, with
    scale = (low, high) in the ImageDescription tag as JSON. Maps to be compared need one scale.
    """
    if kind == "npy":
        np.save(path, np.asarray(values, dtype=np.float32))
        return
    if kind != "tiff":
        raise InputError(f"map format must be one of {', '.join(map(repr, FORMATS))}, got {kind!r}")
    low, high = scale
    unit = (np.asarray(values, dtype=np.float64) - low) / ((high - low) or 1.0)
    pixels = np.rint(unit.clip(0, 1) * 65535).astype(np.uint16)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[_DESCRIPTION] = json.dumps({"low": low, "high": high})
    with io.BytesIO() as file:  # given a path, libtiff wants one that is UTF-8
        Image.fromarray(pixels).save(file, format="TIFF", tiffinfo=tags, compression="tiff_deflate")
        path.write_bytes(file.getbuffer())


def read_map(path: Path) -> np.ndarray:
    """A map that write_map wrote, (H, W) float32; from a TIFF to within half a step of its scale."""
    if path.suffix == ".npy":
        values: np.ndarray = np.load(path, allow_pickle=False)
        return values
    with TiffImagePlugin.TiffImageFile(path) as image:
        scale = json.loads(image.tag_v2[_DESCRIPTION])
        pixels = np.asarray(image, dtype=np.float64)
    values = scale["low"] + pixels / 65535 * (scale["high"] - scale["low"])
    return values.astype(np.float32)
