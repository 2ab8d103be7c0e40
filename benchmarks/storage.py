"""What do scores lose when the normal images' features are kept in 16 bits? Measured on the demo's data.

    python benchmarks/storage.py [--seeds 0 1 2]      into results/storage.json     (needs ".[demo]")

Three photographs with seeded synthetic defects (fastspade.demo), efficientnet_lite0: 60 normal crops each, 10 good and 20
defective ones to score, K = 50 for both stages, kappa = 1. Test features and embeddings stay float32. Changes are relative
to float32: of the anomaly map of the crop at every pixel, and of image scores made from it ("max", "top1%"); the image score
of the paper ("knn") comes from the embeddings alone. `matched elsewhere` is the share of pixels whose nearest normal pixel is
another one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch

from fastspade import Spade, maps
from fastspade.backbones import load_backbone
from fastspade.demo.scenes import CATEGORIES, Scene, make_scene
from fastspade.evaluate import roc_auc
from fastspade.evaluate.metrics import roc_auc_of
from fastspade.evaluate.pro import pixel_counts, pro_of
from fastspade.search.levels import image_bytes

RESULTS = Path(__file__).parent / "results" / "storage.json"
DTYPES = ("float32", "float16", "bfloat16")


def scored(scene: Scene, dtype: str, backbone: Any) -> dict[str, Any]:
    """Of one scene and type: image scores by kind, maps of the crop, matches, metrics, bytes per image."""
    options = dict(k=50, resize=224, crop=224, keep_crop=True, device="cpu", progress=False)
    model = Spade(backbone, storage_dtype=dtype, **options).fit(scene.normal)
    images = model.score([image.picture for image in scene.test]).images
    crops = [image.anomaly_map for image in images]
    shown = [maps.place_in_image(torch.from_numpy(image.anomaly_map), image.crop, image.size).numpy() for image in images]
    labels = np.array([image.defect != "good" for image in scene.test])
    kinds = {
        "knn": np.array([image.score for image in images]),
        "max": np.array([crop.max() for crop in crops]),
        "top1%": np.array([np.sort(crop, axis=None)[-(crop.size // 100) :].astype(np.float64).mean() for crop in crops]),
    }
    data = pixel_counts(shown, [image.mask for image in scene.test])
    metrics = {f"image_roc_auc_{kind}": float(roc_auc(labels, values)) for kind, values in kinds.items()}
    metrics |= {"pixel_roc_auc": float(roc_auc_of(data)), "pro": float(pro_of(data))}
    place = [np.stack([image.matched_image, image.matched_y, image.matched_x]) for image in images]
    return {
        "scores": kinds, "maps": np.stack(crops), "place": np.stack(place), "metrics": metrics,
        "image_bytes": image_bytes(model.bank.snapshot.levels),
    }  # fmt: skip


def change(wide: np.ndarray, half: np.ndarray) -> np.ndarray:
    return (np.abs(half.astype(np.float64) - wide) / np.abs(wide)).ravel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    backbone = load_backbone("efficientnet_lite0")
    metrics: dict[str, list[dict[str, float]]] = {dtype: [] for dtype in DTYPES}
    changes: dict[str, dict[str, list[np.ndarray]]] = {dtype: {} for dtype in DTYPES}
    size = {}
    for seed in arguments.seeds:
        for name in CATEGORIES:
            scene = make_scene(name, seed, good=10, each=5)
            wide = None
            for dtype in DTYPES:
                half = scored(scene, dtype, backbone)
                wide = wide or half
                metrics[dtype].append(half["metrics"])
                size[dtype] = half["image_bytes"]
                found = {f"score_{kind}": change(wide["scores"][kind], values) for kind, values in half["scores"].items()}
                found |= {"map": change(wide["maps"], half["maps"])}
                found |= {"matched_elsewhere": (wide["place"] != half["place"]).any(axis=1).mean(axis=(1, 2))}
                for key, values in found.items():
                    changes[dtype].setdefault(key, []).append(values)
                print(name, seed, dtype, half["metrics"], {key: float(values.max()) for key, values in found.items()}, flush=True)
    rows = {}
    for dtype in DTYPES:
        every = {key: np.concatenate(values) for key, values in changes[dtype].items()}
        elsewhere = every.pop("matched_elsewhere")
        rows[dtype] = {
            "image_bytes": size[dtype],
            "mean": {key: float(np.mean([one[key] for one in metrics[dtype]])) for key in metrics[dtype][0]},
            "largest_loss": {
                key: float(max(wide[key] - half[key] for wide, half in zip(metrics["float32"], metrics[dtype], strict=True)))
                for key in metrics[dtype][0]
            },
            "relative_change": {key: {"median": float(np.median(v)), "largest": float(v.max())} for key, v in every.items()},
            "matched_elsewhere": float(elsewhere.mean()),
        }
        print(dtype, rows[dtype])
    about = {
        "seeds": arguments.seeds,
        "scenes": list(CATEGORIES),
        "backbone": "efficientnet_lite0",
        "images_scored": 30 * len(metrics["float32"]),
    }
    machine.write(RESULTS, {"data": about, "rows": rows})


if __name__ == "__main__":
    main()
