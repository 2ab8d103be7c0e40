"""What a layer returned -> a grid of features (B, C, H, W) and a pooled vector (B, E).

Three layouts are read: channels first, (B, C, H, W); channels last, (B, H, W, C), where the network says so (timm's
``output_fmt``); and a vision transformer's tokens, (B, prefix + h w, C), row by row after the class and register tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fastspade.errors import InputError

__all__ = ["Reader", "Readout", "unit_length"]

THEN = ">"  # between two modules' names: the first one's output goes through the second
COARSE_PATCH = 8  # pixels: plain transformers have such; smaller ones are the first stage of a hierarchy


@dataclass(frozen=True)
class Readout:
    """How one network lays its features out.

    patch: pixels a token covers, (vertical, horizontal), None where the network has no patches. prefix: tokens before
    the patches', None where the network does not say. channels_last: whether 4-D outputs are (B, H, W, C). fixed: the one
    (height, width) that the network takes, None where it takes others.
    """

    patch: tuple[int, int] | None = None
    prefix: int | None = None
    channels_last: bool = False
    fixed: tuple[int, int] | None = None

    @classmethod
    def of(cls, module: nn.Module) -> Readout:
        """From the attributes by which timm's, torchvision's and DINOv2's own transformers describe themselves."""
        embed = getattr(module, "patch_embed", module)
        size = getattr(embed, "patch_size", None)
        patch = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, tuple | list) else None
        prefix = getattr(module, "num_prefix_tokens", None)
        layout = getattr(module, "output_fmt", "NCHW")
        return cls(
            patch if patch is not None and len(patch) == 2 else None,
            prefix if isinstance(prefix, int) else None,
            getattr(layout, "value", layout) == "NHWC",
            _pair(getattr(embed, "img_size", None)) if getattr(embed, "strict_img_size", False) else None,
        )

    @property
    def multiple(self) -> tuple[int, int]:
        """Of what an image's sides must be multiples: of the patch where tokens are as coarse as the network gets, else of 32,
        the usual networks' largest stride."""
        return self.patch if self.patch is not None and min(self.patch) >= COARSE_PATCH else (32, 32)

    @property
    def pads(self) -> bool:
        """Whether the network pads pictures, of any size, with zeros."""
        return self.fixed is None and (self.patch is None or min(self.patch) < COARSE_PATCH)

    def grid(self, name: str, layer: nn.Module, output: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """A pyramid level (B, C, H, W) from the output of the layer called `name`; InputError where it holds none."""
        if output.ndim == 3 and output.shape[0] == images.shape[0] and self.patch is not None:
            height, width = images.shape[2] // self.patch[0], images.shape[3] // self.patch[1]
            prefix = output.shape[1] - height * width
            if prefix >= 0 and self.prefix in (None, prefix):
                tokens = output[:, prefix:].transpose(1, 2)
                return tokens.reshape(images.shape[0], output.shape[2], height, width)
        if output.ndim != 4 or output.shape[0] != images.shape[0]:
            raise InputError(f"layer {name!r} must return (B, C, H, W){self._tokens()}, got {tuple(output.shape)}")
        return self._channels_first(layer, output)

    def pooled(self, name: str, layer: nn.Module, output: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The stage-1 embedding (B, E): vectors as they are, of tokens the class token or else the mean, of a grid the mean."""
        if output.ndim == 3 and self.patch is not None:
            patches = self.grid(name, layer, output, images)
            has_class_token = output.shape[1] > patches.shape[2] * patches.shape[3]
            return output[:, 0] if has_class_token else output.mean(dim=1)
        if output.ndim not in (2, 4) or output.shape[0] != images.shape[0]:
            raise InputError(
                f"embedding layer {name!r} must return (B, E) or (B, C, H, W){self._tokens()}, got {tuple(output.shape)}"
            )
        return output if output.ndim == 2 else self._channels_first(layer, output).mean(dim=(2, 3))

    def _channels_first(self, layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
        # A convolution is channels first in every network, also where the blocks around it are not.
        return output.permute(0, 3, 1, 2) if self.channels_last and not isinstance(layer, nn.Conv2d) else output

    def _tokens(self) -> str:
        return "" if self.patch is None else f" or the tokens of {self.patch[0]}x{self.patch[1]} patches"


def _pair(value: object) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) and len(value) == 2 else None


@dataclass(frozen=True)
class Reader:
    """Which layers' outputs are the pyramid, finest first, and the embedding, and how they are read: "blocks.3>norm" is the output
    of blocks.3 taken through the module norm. cosine: whether features get unit length."""

    readout: Readout
    layers: tuple[str, ...]
    embedding: str
    cosine: bool

    @property
    def wanted(self) -> list[str]:
        """The modules whose outputs are needed."""
        return list(dict.fromkeys(name.partition(THEN)[0] for name in [*self.layers, self.embedding]))

    def read(
        self, network: nn.Module, outputs: dict[str, torch.Tensor], images: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The network's outputs for images (B, 3, H, W) -> embedding (B, E) and pyramid of (B, C_l, H_l, W_l).

        Raises InputError where a layer is not an image, or is finer than the one before it.
        """
        modules = {}
        for name in dict.fromkeys([*self.layers, self.embedding]):
            first, then, after = name.partition(THEN)
            modules[name] = network.get_submodule(after if then else first)
            if then:
                outputs = outputs | {name: modules[name](outputs[first])}
        embedding = self.readout.pooled(self.embedding, modules[self.embedding], outputs[self.embedding], images)
        pyramid = [self.readout.grid(name, modules[name], outputs[name], images) for name in self.layers]
        for i in range(1, len(pyramid)):
            before, here = pyramid[i - 1].shape[2:], pyramid[i].shape[2:]
            if here[0] > before[0] or here[1] > before[1]:
                raise InputError(
                    f"layers must be ordered finest first, but {self.layers[i]!r} is {here[0]}x{here[1]} and "
                    f"{self.layers[i - 1]!r} before it {before[0]}x{before[1]}"
                )
        if self.cosine:
            return unit_length(embedding), [unit_length(level) for level in pyramid]
        return embedding, pyramid


def unit_length(features: torch.Tensor) -> torch.Tensor:
    """Features divided by their L2 norm over dimension 1, so that a squared distance is 2 - 2 cos. Zeros stay zeros."""
    return torch.nn.functional.normalize(features, dim=1, eps=1e-12)
