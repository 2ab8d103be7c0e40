"""What several test files share: a tiny backbone of our own and small pictures."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from emulator.build import build
from fault_table import pytest_addoption, pytest_sessionfinish, record_fault  # noqa: F401 (a plugin's hooks and fixture)
from fastspade import Spade
from fastspade.search.cuda import has_cuda_engine

def pytest_configure() -> None:
    """What starts tests in the background may have told them to ignore Ctrl-C, which programs they start would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


LAYERS = ["first", "second", "third"]


class TinyNet(nn.Module):
    """Three strided convolutions: levels at strides 4, 8 and 16, like the real backbones', in a millisecond."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 7, stride=4, padding=3), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(images)))


def picture(seed: int, height: int = 64, width: int = 64) -> Image.Image:
    """A seeded picture with some structure."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray((random.random((8, 8, 3)) * 255).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def tiny_spade(**options) -> Spade:
    """An unfitted Spade over TinyNet at 64 pixels."""
    settings = dict(k=3, resize=64, crop=64, sigma=1.0, device="cpu", progress=False, batch_size=4) | options
    return Spade(TinyNet(), layers=LAYERS, **settings)


@pytest.fixture
def normal() -> list[Image.Image]:
    return [picture(seed) for seed in range(6)]


@pytest.fixture
def folder(tmp_path, normal):
    """A folder of six normal PNG files."""
    place = tmp_path / "good"
    place.mkdir()
    for i, image in enumerate(normal):
        image.save(place / f"{i}.png")
    return place


def pytest_collection_modifyitems(items):
    """Tests that need a GPU say why they do not run."""
    if torch.cuda.is_available() and has_cuda_engine():
        return
    reason = "no CUDA device" if not torch.cuda.is_available() else "this build of fastspade has no CUDA engine"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """The CUDA engine with its kernels run on the host."""
    return build(tmp_path_factory.mktemp("emulated"))
