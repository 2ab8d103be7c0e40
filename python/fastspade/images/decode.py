"""One image of any kind -> upright RGB pixels in [0, 1]."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image

from fastspade.errors import DtypeError, InputError
from fastspade.images.geometry import CropBox, centre_crop, resample
from fastspade.images.safe_file import DEFAULT_MAX_PIXELS, opened_image

# Eight-bit pictures stay Pillow images, so that they are resized as the published pipelines do (8-bit, Pillow's
# antialiased bilinear); deeper ones become float tensors (3, H, W), so that nothing is rounded to 8 bits.
Decoded = Image.Image | torch.Tensor

_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_RANGE_SLACK = 1e-3  # float images may have been resampled before; a little over- or undershoot is clipped


def read_file(path: str | os.PathLike[str], max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Decoded:
    """Decode a file: first picture, EXIF rotation applied, transparency composited on white, 16-bit scaled by 1/65535.

    Values are taken as stored: colour profiles are not applied, and CMYK is converted by its plain formula, so that a
    file reads the same whatever profile its camera or editor wrote. Of an animation or a file of several pages the first
    is read. Pillow reduces 16-bit colour (RGB) files to 8 bits; 16-bit grayscale keeps its depth.

    max_pixels: a file whose header says more is refused before it is decoded; None sets no limit.

    Raises MissingFileError where there is no such file, else ImageReadError; both name the file.
    """
    with opened_image(path, max_pixels) as image:
        return standardise(image)


def standardise(image: Image.Image) -> Decoded:
    """A Pillow image of any mode -> upright 8-bit RGB, or a (3, H, W) float32 tensor for more than 8 bits a channel."""
    image = upright(image)
    if image.mode in _DEEP_MODES:
        return _gray_to_tensor(np.asarray(image))
    # Colours under transparent pixels are arbitrary: show what a viewer shows on a white page.
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says."""
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """What EXIF says; 1, as stored, where it cannot be read. (ImageOps.exif_transpose also rewrites the EXIF block, which
    fails where any of it is corrupt.)"""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # corrupt metadata is no reason to refuse the picture
        return 1
    return value if isinstance(value, int) else 1


def _gray_to_tensor(values: np.ndarray) -> torch.Tensor:
    scaled: np.ndarray
    if values.dtype.kind == "f":
        scaled = values.astype(np.float32)
    elif values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"integer pixels must lie in 0..65535, got {values.min()}..{values.max()}; rescale the image to 16 bits"
        )
    else:
        scaled = values.astype(np.float32) / 65535
    return _check_range(torch.from_numpy(scaled)).expand(3, -1, -1)


def _check_range(pixels: torch.Tensor) -> torch.Tensor:
    low, high = (float(value) for value in torch.aminmax(pixels))
    if not (-_RANGE_SLACK <= low and high <= 1 + _RANGE_SLACK):  # also catches NaN
        raise InputError(
            f"float pixels must lie in [0, 1], got {low:.4g} to {high:.4g}; "
            "pass images that are not normalised, the backbone does that"
        )
    return pixels.clamp(0, 1)


def check_array(name: str, array: np.ndarray) -> None:
    """Accepts H x W, H x W x 1, H x W x 3 and H x W x 4; uint8, uint16 or floating."""
    if array.dtype not in (np.uint8, np.uint16) and array.dtype.kind != "f":
        raise DtypeError(f"{name} must be uint8, uint16 or floating in [0, 1], got {array.dtype}")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or array.size == 0:
        raise InputError(f"{name} must have shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}")


def decode_array(array: np.ndarray) -> Decoded:
    """A checked array -> RGB. Alpha is composited on white, gray repeated, integers scaled by their full range."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8:
        return standardise(Image.fromarray(np.ascontiguousarray(array)))
    if array.ndim == 2:
        return _gray_to_tensor(array)
    scaled = array.astype(np.float32) / (65535 if array.dtype == np.uint16 else 1)
    pixels = _check_range(torch.from_numpy(scaled).permute(2, 0, 1))
    if len(pixels) == 4:
        colour, alpha = pixels[:3], pixels[3:]
        pixels = colour * alpha + (1 - alpha)
    return pixels


def check_tensor(name: str, tensor: torch.Tensor) -> None:
    """Accepts (3, H, W), uint8 or floating in [0, 1]."""
    if tensor.dtype != torch.uint8 and not tensor.dtype.is_floating_point:
        raise DtypeError(f"{name} must be uint8 or floating in [0, 1], got {str(tensor.dtype).removeprefix('torch.')}")
    if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.numel() == 0:
        raise InputError(f"{name} must have shape (3, H, W), got {tuple(tensor.shape)}")


def decode_tensor(tensor: torch.Tensor) -> Decoded:
    """A checked tensor -> RGB; stays on its device."""
    if tensor.dtype == torch.uint8:
        if tensor.device.type == "cpu":
            return Image.fromarray(tensor.permute(1, 2, 0).contiguous().numpy())
        return tensor.float() / 255
    return _check_range(tensor.detach().float())


def prepare(decoded: Decoded, resize: int | None, crop: int | None) -> tuple[torch.Tensor, tuple[int, int], CropBox]:
    """Resize and crop -> ((3, h, w) float32 in [0, 1], original (H, W), the crop's place in it)."""
    if isinstance(decoded, torch.Tensor):
        size = (decoded.shape[1], decoded.shape[2])
        box, out = centre_crop(*size, resize, crop)
        return resample(decoded, box, out).clamp_(0, 1), size, box
    width, height = decoded.size
    box, out = centre_crop(height, width, resize, crop)
    # Pillow reads the fractional box itself, neighbours outside it included: the same as resizing all and cropping.
    corners = (box.left, box.top, min(box.left + box.width, width), min(box.top + box.height, height))
    cropped = decoded.resize((out[1], out[0]), Image.Resampling.BILINEAR, box=corners)
    pixels = np.array(cropped, dtype=np.float32).transpose(2, 0, 1) / 255
    return torch.from_numpy(np.ascontiguousarray(pixels)), (height, width), box


def as_rgb(image: str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor) -> Image.Image:
    """One image of any supported kind as an upright 8-bit RGB Pillow image at its own size (to draw on)."""
    if isinstance(image, Image.Image):
        decoded = standardise(image)
    elif isinstance(image, np.ndarray):
        check_array("image", image)
        decoded = decode_array(image)
    elif isinstance(image, torch.Tensor):
        check_tensor("image", image)
        decoded = decode_tensor(image)
    elif isinstance(image, (str, os.PathLike)):
        decoded = read_file(image)
    else:
        raise DtypeError(f"image must be a path, PIL image, array or tensor, got {type(image).__name__}")
    return to_pillow(decoded)


def to_pillow(decoded: Decoded) -> Image.Image:
    """An 8-bit RGB Pillow image, to draw on."""
    if isinstance(decoded, torch.Tensor):
        return Image.fromarray((decoded * 255).round().byte().permute(1, 2, 0).cpu().contiguous().numpy())
    return decoded
