"""Makes the pictures of how_it_works.md from the demo's data:  python docs/pictures.py   (needs ".[demo,bench]")

One category of the demo (efficientnet_lite0, K = 50), one image with a defect: what each stage has in hand.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import ConnectionPatch

from fastspade import Spade, maps, pyramid_knn
from fastspade.demo.scenes import TestImage, make_scene
from fastspade.images import open_source
from fastspade.spade.result import ScoredImage

HERE = Path(__file__).parent
CATEGORY, DEFECT, SIDE = "brick", "blob", 224
DPI, QUALITY = 110, 88


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(HERE / name, dpi=DPI, pil_kwargs={"quality": QUALITY}, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    print(f"{name}: {(HERE / name).stat().st_size / 1e3:.0f} kB")


def panels(titles: list[str], width: float = 2.3) -> tuple[plt.Figure, list[plt.Axes]]:
    figure, axes = plt.subplots(1, len(titles), figsize=(width * len(titles), width + 0.3))
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    return figure, list(axes)


def colours(level: torch.Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, 3): the three principal directions as red, green and blue."""
    rows = level.flatten(1).T
    rows = rows - rows.mean(0)
    _, _, directions = torch.pca_lowrank(rows, q=3, center=False, niter=8)
    values = rows @ directions
    low, high = values.quantile(0.02, dim=0), values.quantile(0.98, dim=0)
    return ((values - low) / (high - low)).clamp(0, 1).reshape(*level.shape[1:], 3).numpy()


def main() -> None:
    torch.manual_seed(0)
    scene = make_scene(CATEGORY, seed=0)
    chosen = next(image for image in scene.test if image.defect == DEFECT)
    model = Spade("efficientnet_lite0", k=50, k_image=3, resize=SIDE, crop=SIDE, device="cpu", progress=False)
    model.fit(scene.normal)
    result = model.score([chosen.picture])
    found = result.images[0]

    figure, axes = panels(["test image", *(f"normal, {d:.1f} away" for d in found.neighbor_distances[:4])])
    for axis, picture in zip(axes, [chosen.picture, *(scene.normal[i] for i in found.neighbors[:4])], strict=True):
        axis.imshow(picture)
    save(figure, "stage1.jpg")

    (batch,) = open_source([chosen.picture], resize=SIDE, crop=SIDE)
    _, pyramid = model.backbone(batch.pixels)
    figure, axes = panels(["test image", *(" x ".join(map(str, level.shape[1:])) for level in pyramid)])
    for axis, picture in zip(axes, [chosen.picture, *(colours(level[0]) for level in pyramid)], strict=True):
        axis.imshow(picture, interpolation="nearest")
    save(figure, "pyramid.jpg")

    distances, _ = pyramid_knn(pyramid, model.bank.pyramid, 1, gallery_index=torch.from_numpy(found.neighbors)[None])
    correspondence(scene.normal, chosen, found, distances[0, :, :, 0])

    figure, axes = panels(["distances, 56 x 56", "enlarged and smoothed", "over the image", "true defect"])
    axes[0].imshow(maps.heatmap(distances[0, :, :, 0]), interpolation="nearest")
    axes[1].imshow(maps.heatmap(found.anomaly_map))
    axes[2].imshow(np.asarray(result.overlay(0))[: chosen.picture.shape[0], : chosen.picture.shape[1]])
    axes[3].imshow(chosen.mask, cmap="gray")
    save(figure, "map.jpg")


def correspondence(normal: list[np.ndarray], chosen: TestImage, found: ScoredImage, distances: torch.Tensor) -> None:
    """Some pixels of the test image and where in the normal images their nearest pixels are."""
    grid = found.matched_image.shape[0]
    scale = chosen.picture.shape[0] / grid
    inside = np.argwhere(np.asarray(chosen.mask)).mean(0)
    points = [(10, 12), (44, 40), tuple((inside / scale).astype(int))]
    titles = [f"{name} found here, {distances[place]:.0f} away" for name, place in zip("ABC", points, strict=True)]
    figure, axes = panels(["test image", *titles])
    axes[0].imshow(chosen.picture)
    for (y, x), axis, name in zip(points, axes[1:], "ABC", strict=True):
        image = found.matched_image[y, x]
        there = ((found.matched_x[y, x] + 0.5) * scale, (found.matched_y[y, x] + 0.5) * scale)
        here = ((x + 0.5) * scale, (y + 0.5) * scale)
        axis.imshow(normal[image])
        for place, where in ((here, axes[0]), (there, axis)):
            where.plot(*place, "o", markersize=11, markerfacecolor="none", markeredgecolor="#ffd400", markeredgewidth=2)
        axes[0].text(here[0] + 9, here[1] - 6, name, color="#ffd400", fontsize=12, fontweight="bold")
        line = ConnectionPatch(here, there, "data", "data", axesA=axes[0], axesB=axis, color="#ffd400", linewidth=1.1)
        figure.add_artist(line)
    save(figure, "correspondence.jpg")


if __name__ == "__main__":
    main()
