"""The options of a Spade, each defined once: its name, type, default, check, command-line flag and help text.

What else knows of options derives from `Options` (the signatures of Spade, score, Spade.load and SpadeDetector, the command
line, saved models, the documentation's table) or is compared with it by a test (OptionsDict, the anomalib model).
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from fastspade import checks
from fastspade.errors import InputError
from fastspade.images import sides
from fastspade.images.region import check_roi
from fastspade.images.safe_file import DEFAULT_MAX_PIXELS
from fastspade.images.views import checked_turns

if TYPE_CHECKING:
    import torch

DEFAULT_BACKBONE = "wide_resnet50_2"
DINO = "timm:vit_base_patch16_dinov3.lvd1689m"
BACKBONE_HELP = "wide_resnet50_2, resnet18, resnet50, efficientnet_lite0, or timm:NAME"
UPSAMPLES = ("bilinear", "nearest")
IMAGE_SCORES = ("relative", "knn", "max", "top1%", "reweighted")
PRECISIONS = ("exact", "fast")
STORAGE_DTYPES = ("float32", "float16", "bfloat16")
# What each preset sets in place of the defaults below, for options that are not given; and its backbone, where that is another.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"k_image": None, "image_score": "knn", "resize": 256, "crop": 224, "reflect_border": False},
    "rad": {
        "backbone": DINO, "layers": ("blocks.3>norm", "blocks.6>norm", "blocks.9>norm", "blocks.11>norm"),
        "embedding": "blocks.11>norm", "cosine": True, "k": 150, "per_level": True, "window": 16.0, "sigma": 1.0,
        "truncate": 2.0, "image_score": "top1%", "resize": (512, 512), "crop": 448, "reflect_border": False,
    },
}  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


def option(
    default: Any,
    check: Callable[[str, Any], Any],
    help: str,
    *,
    scope: str,
    paper: bool = True,
    flag: dict[str, Any] | None = None,
    before: Any = None,
) -> Any:
    """One option. check(name, value) returns the value as it is kept, or raises an error that names the option.

    scope: "model", scores depend on it and saved models hold it; "network", it chooses the backbone's layers or weights;
    "running", how and where the work is done. paper: the paper has it. flag: what the command line's argument needs beside
    its name, default and help; None for an option that no command has. before: what saved models without the option had,
    where that is not None.
    """
    about = {"check": check, "help": help, "scope": scope, "paper": paper, "flag": flag, "before": before}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Options:
    """All options of a Spade but its backbone, checked and as plain values. Raises InputError or DtypeError, which name the
    option, what it got and what it needs."""

    preset: str = option(
        "default", checks.choice(tuple(PRESETS)),
        "default: what found most defects on the sets measured; paper: every setting as SPADE's authors have it, to compare figures; "
        "rad: retrieval with windowed matching on a DINO network (RAD, arXiv 2601.22763)",
        before="paper", scope="model", flag={"choices": tuple(PRESETS)},
    )  # fmt: skip
    k: int = option(50, checks.count, "normal images that each test image is compared with in stage 2",
                    scope="model", flag={"type": int})  # fmt: skip
    k_image: int | None = option(3, checks.optional_count, "how many of them the image score knn averages over; None: k",
                                 scope="model", flag={"type": int})  # fmt: skip
    kappa: int = option(1, checks.count, "nearest gallery pixels that a pixel's score averages over (eq. 3)",
                        scope="model", flag={"type": int})  # fmt: skip
    layers: Sequence[str] | None = option(None, checks.anything, "modules of the backbone whose outputs form the pyramid, finest first",
                                          scope="network", flag={"nargs": "+"})  # fmt: skip
    embedding: str | None = option(
        None, checks.anything,
        "module whose average over positions (of tokens: the class token) stage 1 compares; None: the backbone's own",
        scope="network", flag={"metavar": "LAYER"},
    )  # fmt: skip
    cosine: bool = option(False, checks.truth, "give features unit length, so that squared distances are 2 - 2 cos",
                          scope="network", paper=False, flag={"action": "store_true"})  # fmt: skip
    upsample: str = option("bilinear", checks.choice(UPSAMPLES), "how levels are brought to one resolution",
                           scope="model", flag={"choices": UPSAMPLES})  # fmt: skip
    sigma: float = option(4.0, checks.length, "of the Gaussian that smooths the map, in pixels of the cropped image",
                          scope="model", flag={"type": float})  # fmt: skip
    truncate: float = option(4.0, checks.length, "where that Gaussian ends, in units of sigma", scope="model", paper=False,
                             flag={"type": float})  # fmt: skip
    image_score: str = option(
        "relative", checks.choice(IMAGE_SCORES),
        "relative: how far the map rises above what normal images' maps reach at the same place; knn: mean squared distance to the "
        "k_image nearest normal images (the paper's); max of the map; top1%: mean of the map's highest hundredth; reweighted: "
        "PatchCore's (arXiv 2106.08265, eq. 7)",
        scope="model", paper=False, flag={"choices": IMAGE_SCORES},
    )  # fmt: skip
    local_average: bool = option(False, checks.truth, "average every level's features over 3 x 3 places before matching",
                                 scope="model", paper=False, flag={"action": "store_true"})  # fmt: skip
    window: float | None = option(
        None, checks.optional_length,
        "match a pixel only to gallery pixels at most this many pixels of the crop away from its own place, in y and in x, for "
        "aligned images; None: the whole image",
        scope="model", paper=False, flag={"type": float, "metavar": "PIXELS"},
    )  # fmt: skip
    per_level: bool = option(
        False, checks.truth,
        "match every level by itself, by the CPU's engine, and average half the squared distances: of cosine features 1 - cos. Levels "
        "must have one size",
        scope="model", paper=False, flag={"action": "store_true"},
    )  # fmt: skip
    resize: int | tuple[int, int] | str = option(
        "whole", sides.pixels_or_whole,
        "pixels of the shorter side, or HEIGHTxWIDTH (a pair), that images are resized to; whole: the normal images' median aspect "
        "ratio at about 256 x 256 pixels (at the size that the backbone's makers used, where that is another)",
        scope="model", flag={"metavar": "SIZE"},
    )  # fmt: skip
    crop: int | tuple[int, int] | None = option(
        None, sides.optional_pixels, "then the central square of so many pixels a side, or HEIGHTxWIDTH, is cut out; none: all is kept",
        scope="model", flag={"metavar": "SIZE"},
    )  # fmt: skip
    reflect_border: bool = option(
        True, checks.truth, "continue images by reflection, so that maps are not bright along the border", before=False,
        scope="model", paper=False, flag={"action": argparse.BooleanOptionalAction},
    )  # fmt: skip
    tile: tuple[int, int] | None = option(
        None, sides.optional_tile,
        "cut images into tiles of so many pixels a side, or HEIGHTxWIDTH (a pair), each compared by itself: for small defects in "
        "large images, which then keep their size unless resize is given",
        scope="model", paper=False, flag={"metavar": "SIZE"},
    )  # fmt: skip
    overlap: float = option(0.25, checks.share, "the share of a tile's sides that the tiles beside it cover too, at least",
                            scope="model", paper=False, flag={"type": float, "metavar": "SHARE"})  # fmt: skip
    aligned: bool = option(False, checks.truth, "compare a tile with those of the same place alone: for parts that all lie alike",
                           scope="model", paper=False, flag={"action": "store_true"})  # fmt: skip
    augment: Sequence[float | str] = option(
        (), checked_turns,
        "also compare with turned copies of the normal images: rotations (by 90, 180 and 270 degrees), flips, or degrees one by one, "
        "horizontal, vertical",
        scope="model", paper=False, flag={"nargs": "+", "metavar": "TURN"},
    )  # fmt: skip
    roi: Any = option(
        None, check_roi,
        "the region of interest, outside which nothing is compared and maps are 0: a mask's file or array for all images, a polygon "
        "[(x, y), ...] in shares of width and height, a folder of masks by stem, or auto: the foreground, found by itself",
        scope="model", paper=False, flag={"metavar": "MASK"},
    )  # fmt: skip
    keep_crop: bool = option(False, checks.truth, "maps cover the crop alone instead of being put back at the input's own size",
                             scope="model", paper=False, flag={"action": "store_true"})  # fmt: skip
    precision: str = option("exact", checks.choice(PRECISIONS), "exact, or fast: the CUDA search's first pass alone, as of pyramid_knn",
                            scope="model", paper=False)  # fmt: skip
    storage_dtype: str = option(
        "float32", checks.choice(STORAGE_DTYPES),
        "what the normal images' features are kept as; 16 bits take half the memory and change scores a little",
        scope="model", paper=False, flag={"choices": STORAGE_DTYPES},
    )  # fmt: skip
    weights: str | Path | None = option(None, checks.anything, "a local state-dict file in place of the published weights",
                                        scope="network", flag={"metavar": "FILE"})  # fmt: skip
    device: str | torch.device | None = option(
        None, checks.anything, "cpu or cuda; None: cuda where this build has a CUDA engine and a device is present, else cpu",
        scope="running", flag={},
    )  # fmt: skip
    batch_size: int = option(8, checks.count, "images per call of the backbone", scope="running", flag={"type": int})
    num_workers: int | None = option(2, checks.optional_workers, "threads that decode images",
                                     scope="running", flag={"type": int})  # fmt: skip
    progress: bool = option(True, checks.truth, "show progress bars on a terminal", scope="running")
    max_pixels: int | None = option(
        DEFAULT_MAX_PIXELS, checks.optional_count,
        "image files with more pixels in their header are refused before they are decoded; None: no limit",
        scope="running", flag={"type": int, "metavar": "N"},
    )  # fmt: skip
    memory_limit: int | None = option(
        None, checks.optional_count,
        "bytes of the normal images' features held at once, on the device, and on the host where the model is in a folder; a larger "
        "bank is read in parts while it is searched. None: what is free on the device; on the CPU about 512 MiB of a model in a "
        "folder",
        scope="running", flag={"metavar": "BYTES"},
    )  # fmt: skip

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, one.metadata["check"](one.name, getattr(self, one.name)))
        sides.check_crop(self.resize, self.crop)
        if self.aligned and self.tile is None:
            raise InputError("aligned is for tiles: give tile, too")
        for name, refused in (("roi", self.roi is not None), ("image_score", self.image_score == "reweighted")):
            if self.per_level and refused:
                raise InputError(f"per_level does not go with {name}={getattr(self, name)!r}")

    def kept(self) -> dict[str, Any]:
        """Those that scores depend on, as saved models hold them."""
        kept = {name: getattr(self, name) for name in names("model")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class OptionsDict(TypedDict, total=False):
    """The options of `fastspade.Spade`, all but the backbone, for annotations of your own."""

    preset: str
    k: int
    k_image: int | None
    kappa: int
    layers: Sequence[str] | None
    embedding: str | None
    cosine: bool
    upsample: str
    sigma: float
    truncate: float
    image_score: str
    local_average: bool
    window: float | None
    per_level: bool
    resize: int | tuple[int, int] | str
    crop: int | tuple[int, int] | None
    reflect_border: bool
    tile: tuple[int, int] | int | str | None
    overlap: float
    aligned: bool
    augment: Sequence[float | str] | str
    roi: Any
    keep_crop: bool
    precision: str
    storage_dtype: str
    weights: str | Path | None
    device: str | torch.device | None
    batch_size: int
    num_workers: int | None
    progress: bool
    max_pixels: int | None
    memory_limit: int | None


def names(*scopes: str) -> tuple[str, ...]:
    """The options of some scopes, all without one, in their order."""
    return tuple(one.name for one in fields(Options) if not scopes or one.metadata["scope"] in scopes)


def completed(options: dict[str, Any]) -> dict[str, Any]:
    """A saved model's options, with those that came later as they were before there was a choice."""
    later = {one.name: one.metadata["before"] for one in fields(Options) if one.metadata["before"] is not None}
    return later | options


def _preset(options: dict[str, Any]) -> dict[str, Any]:
    preset = options.get("preset", "default")
    return PRESETS.get(preset, {}) if isinstance(preset, str) else {}  # Options says what is wrong with others


def backbone_of(options: dict[str, Any]) -> str:
    """The backbone of a preset, for a caller that names none."""
    return str(_preset(options).get("backbone", DEFAULT_BACKBONE))


def takes_options(*scopes: str, without: Iterable[str] = (), **defaults: Any) -> Callable[[F], F]:
    """Shows options in the signature of a function that takes them as **options, and gives those left out their defaults.

    scopes: which; all without one. without: names that it does not take. defaults: in place of those of Options.
    """
    known = {one.name: one for one in fields(Options)}
    wanted = [name for name in names(*scopes) if name not in without]

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        shown = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name, known[name].default), annotation=known[name].type
            )
            for name in wanted
        ]
        function.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]  # functions have no declared one
        return function

    return decorate


def given(options: dict[str, Any], call: str, *scopes: str, loaded: bool = False) -> dict[str, Any]:
    """`options` of some scopes, the others as the preset has them. loaded: the backbone is, so that no preset chooses its layers.
    Raises TypeError for a name that is none of them."""
    wanted = names(*scopes)
    for name in options:
        if name not in wanted:
            raise TypeError(f"{call} got an unexpected keyword argument {name!r}")
    known = {one.name: one.default for one in fields(Options)}
    known |= {name: value for name, value in _preset(options).items() if not (loaded and name in names("network"))}
    return {name: options.get(name, known[name]) for name in wanted}
