"""What the benchmarks search: random features in a network's shapes, or real features of real photographs.

    python benchmarks/features.py aligned 20 build/features.pt   # saved in half precision, for a machine that cannot make them
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

SHAPES = {
    # Outputs of the first three blocks at 224 pixels (SPADE, section 4), and efficientnet_lite0's expanded activations.
    "wide_resnet50_2": ((256, 56, 56), (512, 28, 28), (1024, 14, 14)),
    "efficientnet_lite0": ((24, 56, 56), (40, 28, 28), (112, 14, 14)),
}
REAL = ("aligned", "brick", "grass", "gravel")

Pyramid = list[torch.Tensor]


def make_features(data: str, shapes: str, images: int, seed: int = 0) -> tuple[Pyramid, Pyramid]:
    """One query image and `images` gallery images: (1, C, H, W) and (images, C, H, W) a level.

    data: "random", or one of REAL: crops of a photograph that scikit-image ships, through efficientnet_lite0.
    """
    if data == "random":
        generator = torch.Generator().manual_seed(seed)
        return tuple([torch.randn(n, *shape, generator=generator) for shape in SHAPES[shapes]] for n in (1, images))
    from fastspade.backbones import load_backbone

    pictures = list(_pictures(data, images + 1, seed))
    backbone = load_backbone("efficientnet_lite0")
    batches = []
    for start in range(0, len(pictures), 8):
        pixels = np.stack(pictures[start : start + 8])
        batches.append(backbone(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)[1])
    levels = [torch.cat(level).contiguous() for level in zip(*batches, strict=True)]
    return [level[:1] for level in levels], [level[1:] for level in levels]


def _pictures(data: str, count: int, seed: int):
    """224 x 224 x 3 uint8 crops. "aligned": one object photographed again and again, a little moved, turned and relit;
    textures: the query from the right of the photograph, the gallery from the rest, no pixel shared."""
    from skimage import data as photographs

    random = np.random.default_rng(seed)
    if data == "aligned":
        whole = Image.fromarray(photographs.coffee())
        for _ in range(count):
            turned = whole.rotate(random.normal(0, 1.2), resample=Image.Resampling.BICUBIC, center=(300, 210))
            left, top = 120 + random.normal(0, 3), 60 + random.normal(0, 3)
            size = 300 * (1 + random.normal(0, 0.01))
            crop = turned.resize((224, 224), Image.Resampling.BICUBIC, box=(left, top, left + size, top + size))
            lit = np.asarray(crop) * (1 + random.normal(0, 0.05)) + random.normal(0, 2, (224, 224, 3))
            yield np.clip(np.rint(lit), 0, 255).astype(np.uint8)
        return
    whole = np.repeat(getattr(photographs, data)()[..., None], 3, axis=2)
    for number in range(count):
        low, high = (288, 288) if number == 0 else (0, 64)
        top, left = random.integers(0, 289), random.integers(low, high + 1)
        yield whole[top : top + 224, left : left + 224]


if __name__ == "__main__":
    import sys

    sides = make_features(sys.argv[1], "efficientnet_lite0", int(sys.argv[2]))
    torch.save(tuple([level.half() for level in side] for side in sides), sys.argv[3])
