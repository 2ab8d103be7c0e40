"""Backbones: images -> one embedding for stage 1 and a feature pyramid for stage 2.

network.py   what a named backbone is made of          torchvision_models.py, efficientnet_lite0.py, timm_models.py
weights.py   state dicts from files, checked           readout.py   what a layer returned -> (B, C, H, W)
load.py      names and modules -> Backbone             backbone.py  the forward pass and its checks
spec.py      a saved model's backbone, rebuilt
"""

from __future__ import annotations

from fastspade.backbones.backbone import Backbone
from fastspade.backbones.load import BACKBONES, load_backbone
from fastspade.backbones.spec import backbone_from_spec

__all__ = ["BACKBONES", "Backbone", "backbone_from_spec", "load_backbone"]
