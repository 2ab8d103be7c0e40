"""One image of any kind -> upright RGB pixels in [0, 1]."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image

from fastspade.errors import DtypeError, InputError
from fastspade.images.geometry import CropBox, centre_crop, resample
from fastspade.images.orientation import upright
from fastspade.images.safe_file import DEFAULT_MAX_PIXELS, opened_image

# Eight-bit pictures stay Pillow images, so that they are resized as the published pipelines do (8-bit, Pillow's
# antialiased bilinear); deeper ones become float tensors (3, H, W), so that nothing is rounded to 8 bits.
Decoded = Image.Image | torch.Tensor

_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_FULL_SCALE = {torch.uint8: 255, torch.uint16: 65535}
_RANGE_SLACK = 1e-3  # float images may have been resampled before; a little over- or undershoot is clipped


def read_file(path: str | os.PathLike[str], max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Decoded:
    """Decode a file: first picture, EXIF rotation applied, transparency composited on white, 16-bit scaled by 1/65535.

    Values are taken as stored: colour profiles and gamma are not applied, and CMYK is converted by its plain formula, so that a
    file reads the same whatever profile its camera or editor wrote. Of an animation or a file of several pages the first
    is read, thumbnails not counted. PNG, TIFF and gray files of 16 bits keep their depth. TIFFs that Pillow does not read right
    are read by tifffile, or refused where it is missing.

    max_pixels: a file whose header says more is refused before it is decoded; None sets no limit.

    Raises MissingFileError where there is no such file, else ImageReadError; both name the file.
    """
    with opened_image(path, max_pixels) as image:
        return standardise(image)


def size_of(decoded: Decoded) -> tuple[int, int]:
    """(height, width)."""
    if isinstance(decoded, torch.Tensor):
        return decoded.shape[1], decoded.shape[2]
    return decoded.height, decoded.width


def standardise(image: Image.Image | np.ndarray) -> Decoded:
    """A Pillow image of any mode -> upright 8-bit RGB, or a (3, H, W) float32 tensor for more than 8 bits per channel, which may
    come as an array (H, W), (H, W, 3) or (H, W, 4), too."""
    if isinstance(image, np.ndarray):
        return decode_array(image)
    image = upright(image)
    if image.mode in _DEEP_MODES:
        return _gray_to_tensor(np.asarray(image))
    if has_alpha(image):  # colours under transparent pixels are arbitrary: show what a viewer shows on a white page
        rgba = as_rgba(image)
        _check_seen(np.asarray(rgba.getchannel("A")).max())
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _check_seen(most: float | torch.Tensor) -> None:
    if most == 0:
        raise InputError("every pixel is transparent, so that there is nothing to be seen; write the picture without alpha")


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


def as_rgba(image: Image.Image) -> Image.Image:
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _gray_to_tensor(values: np.ndarray) -> torch.Tensor:
    scaled: np.ndarray
    if values.dtype.kind == "f":
        scaled = values.astype(np.float32)
    elif values.min() < 0 or values.max() > 65535:
        raise ValueError(f"integer pixels must lie in 0..65535, got {values.min()}..{values.max()}; rescale the image to 16 bits")
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
    """Accepts H x W, H x W x 1, H x W x 3 and H x W x 4; uint8, uint16 or floating, of either byte order."""
    if array.dtype.kind not in "uf" or (array.dtype.kind == "u" and array.dtype.itemsize > 2):
        raise DtypeError(f"{name} must be uint8, uint16 or floating in [0, 1], got {array.dtype}")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or array.size == 0:
        raise InputError(f"{name} must have shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}")


def decode_array(array: np.ndarray) -> Decoded:
    """A checked array -> RGB. Alpha is composited on white, gray repeated, integers scaled by their full range."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8:
        return standardise(Image.fromarray(np.ascontiguousarray(array)))
    if array.ndim == 2:
        return _gray_to_tensor(array)
    scaled = array.astype(np.float32) / (65535 if array.dtype == np.uint16 else 1)
    return _on_white(_check_range(torch.from_numpy(scaled).permute(2, 0, 1)))


def check_tensor(name: str, tensor: torch.Tensor) -> None:
    """Accepts (1, H, W), (3, H, W) and (4, H, W); uint8, uint16 or floating in [0, 1]."""
    if tensor.layout != torch.strided:
        raise DtypeError(f"{name} must be a dense tensor, got {str(tensor.layout).removeprefix('torch.')}; give x.to_dense()")
    if tensor.dtype not in (torch.uint8, torch.uint16) and not tensor.dtype.is_floating_point:
        raise DtypeError(f"{name} must be uint8, uint16 or floating in [0, 1], got {str(tensor.dtype).removeprefix('torch.')}")
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4) or tensor.numel() == 0:
        raise InputError(f"{name} must have shape (1, H, W), (3, H, W) or (4, H, W), got {tuple(tensor.shape)}")


def decode_tensor(tensor: torch.Tensor) -> Decoded:
    """A checked tensor -> RGB; stays on its device."""
    tensor = tensor.detach()
    if tensor.dtype == torch.uint8 and tensor.device.type == "cpu":
        pixels = tensor.permute(1, 2, 0).contiguous().numpy()
        return standardise(Image.fromarray(pixels[..., 0] if len(tensor) == 1 else pixels))
    return _on_white(_check_range(tensor.float() / _FULL_SCALE.get(tensor.dtype, 1)))


def _on_white(pixels: torch.Tensor) -> torch.Tensor:
    """(C, H, W) in [0, 1], gray, RGB or RGBA -> (3, H, W)."""
    if len(pixels) == 4:
        colour, alpha = pixels[:3], pixels[3:]
        _check_seen(alpha.max())
        return colour * alpha + (1 - alpha)
    return pixels.expand(3, -1, -1)


def prepare(
    decoded: Decoded, resize: int | tuple[int, int] | None, crop: int | tuple[int, int] | None
) -> tuple[torch.Tensor, tuple[int, int], CropBox]:
    """Resize and crop -> ((3, h, w) float32 in [0, 1], original (H, W), the crop's place in it)."""
    height, width = size_of(decoded)
    box, out = centre_crop(height, width, resize, crop)
    if isinstance(decoded, torch.Tensor):
        return resample(decoded, box, out).clamp_(0, 1), (height, width), box
    # Pillow reads the fractional box itself, neighbours outside it included: the same as resizing all and cropping.
    corners = (box.left, box.top, min(box.left + box.width, width), min(box.top + box.height, height))
    cropped = decoded.resize((out[1], out[0]), Image.Resampling.BILINEAR, box=corners)
    pixels = np.array(cropped, dtype=np.float32).transpose(2, 0, 1) / 255
    return torch.from_numpy(np.ascontiguousarray(pixels)), (height, width), box


def as_rgb(image: str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor) -> Image.Image:
    """One image of any supported kind as an upright 8-bit RGB Pillow image at its own size."""
    return to_pillow(decode(image))


def decode(image: str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor) -> Decoded:
    """One image of any supported kind."""
    if isinstance(image, Image.Image):
        return standardise(image)
    if isinstance(image, np.ndarray):
        check_array("image", image)
        return decode_array(image)
    if isinstance(image, torch.Tensor):
        check_tensor("image", image)
        return decode_tensor(image)
    if isinstance(image, (str, os.PathLike)):
        return read_file(image)
    raise DtypeError(f"image must be a path, PIL image, array or tensor, got {type(image).__name__}")


def to_pillow(decoded: Decoded) -> Image.Image:
    """An 8-bit RGB Pillow image of the same values."""
    if isinstance(decoded, torch.Tensor):
        return Image.fromarray((decoded * 255).round().byte().permute(1, 2, 0).cpu().contiguous().numpy())
    return decoded


def to_show(decoded: Decoded) -> Image.Image:
    """An 8-bit RGB Pillow image, to be looked at.

    A deep picture of which only the lower 14 bits or fewer are used, as of a camera of 12 bits, is brought up to the full
    range: by a power of two, so that all pictures of a camera are shown alike. A dark picture of 8 bits stays dark.
    """
    if isinstance(decoded, torch.Tensor):
        used = round(float(decoded.max()) * 65535).bit_length()
        levels = decoded * 255
        if 0 < used <= 14 and (levels - levels.round()).abs().max() > 1e-3:
            decoded = (decoded * (65535 / (2**used - 1))).clamp(max=1)
    return to_pillow(decoded)
