"""What the page shows of one category, as JSON-able values."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fastspade.evaluate.arrays import MetricValue
from fastspade.evaluate.category import Category
from fastspade.evaluate.protocols import crop_mask
from fastspade.evaluate.report.encode import mask_picture, packed, thumbnail
from fastspade.evaluate.runner import CategoryResult, ScoredTest
from fastspade.images.decode import read_file, to_pillow, to_show
from fastspade.images.geometry import CropBox, centre_crop, part_of
from fastspade.images.views import Tiling, ViewName, turned
from fastspade.spade import Spade

MAP_SIDE = 112  # maps are smooth (sigma 4 at 224), so half their resolution shows everything
PICTURE_SIDE, NORMAL_SIDE = 320, 224


def category_payload(
    category: Category, result: CategoryResult, tests: Sequence[ScoredTest], model: Spade, root: Path
) -> dict[str, Any]:
    """Metrics, curves, test images with maps and correspondences, and the normal images that were matched."""
    low = min(float(one.scored.anomaly_map.min()) for one in tests)
    high = max(float(one.scored.anomaly_map.max()) for one in tests)
    grid, names, threshold = model.fitted_bank().level_shapes[0][1:], model.fitted_bank().names, result.threshold
    used = sorted({int(i) for one in tests for i in np.unique(one.scored.matched_image)})
    with ThreadPoolExecutor(thread_name_prefix="fastspade-report") as pool:  # which decode and encode pictures
        images = list(pool.map(lambda one: _image(one, (low, high), root, grid), tests))
        normals = dict(zip(map(str, used), pool.map(lambda i: _normal(names[i], model, root), used), strict=True))
    return {
        "name": result.name,
        "counts": {"train": result.train, "good": result.good, "defects": result.defects},
        "metrics": {
            "image": metrics_payload(result.image_metrics),
            **{protocol: metrics_payload(values) for protocol, values in result.pixel_metrics.items()},
            "decisions": metrics_payload(
                {"false_positive_rate": result.false_positive_rate, "true_positive_rate": result.true_positive_rate}
            ),
        },
        "threshold": None if threshold is None else {"image": threshold.image, "pixel": threshold.pixel},
        "imageCurve": result.image_curve,
        "pixelCurves": result.pixel_curves,
        "scale": [low, high],
        "images": images,
        "normals": normals,
    }


def metrics_payload(values: dict[str, MetricValue]) -> dict[str, dict[str, Any]]:
    return {name: {"value": None if v != v else round(float(v), 6), "reason": v.reason} for name, v in values.items()}


def _image(one: ScoredTest, scale: tuple[float, float], root: Path, grid: Sequence[int]) -> dict[str, Any]:
    """grid: of a normal image's cells; a test image in tiles has more."""
    scored = one.scored
    picture, width, height = thumbnail(to_show(read_file(one.test.path)), PICTURE_SIDE)
    levels = _levels(scored.anomaly_map, scale)
    rows, columns = scored.matched_y.shape
    flat = (scored.matched_image * grid[0] + scored.matched_y) * grid[1] + scored.matched_x
    return {
        "name": _relative(one.test.path, root),
        "kind": one.test.kind,
        "score": scored.score,
        "src": picture,
        "width": width,
        "height": height,
        "crop": _share(scored.crop, scored.size),
        "map": packed(levels),
        "mapSize": list(levels.shape),
        "matches": packed(flat.astype(np.uint32)),
        "grid": [rows, columns],
        "normalGrid": list(grid),
        "roi": None if scored.roi is None else packed(_small(scored.roi, levels.shape)),
        "neighbors": scored.neighbors.tolist(),
        "mask": mask_picture(one.mask, width, height) if one.mask is not None else None,
        "truth": packed(crop_mask(one.mask, scored.crop, levels.shape).astype(np.uint8)) if one.mask is not None else None,
    }


def _levels(anomaly_map: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """The map at up to MAP_SIDE as 256 levels whose squares are evenly spaced: finer near the threshold than near the top."""
    values = torch.from_numpy(anomaly_map)[None, None]
    size = (min(MAP_SIDE, anomaly_map.shape[0]), min(MAP_SIDE, anomaly_map.shape[1]))
    small: np.ndarray = F.adaptive_avg_pool2d(values, size)[0, 0].numpy()
    low, high = scale
    levels: np.ndarray = np.rint(255 * np.sqrt(((small - low) / ((high - low) or 1.0)).clip(0, 1)))
    return levels.astype(np.uint8)


def _small(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(size) uint8: 1 where half or more of a bool mask is set."""
    share: np.ndarray = F.adaptive_avg_pool2d(torch.from_numpy(mask)[None, None].float(), (size[0], size[1]))[0, 0].numpy()
    return (share >= 0.5).astype(np.uint8)


def _normal(name: str, model: Spade, root: Path) -> dict[str, Any]:
    """What was compared, as it was: a turned copy is shown turned, of a tile where it lies."""
    view = ViewName.parse(name)
    whole = to_show(read_file(view.picture))
    if view.turn is not None:
        whole = to_pillow(turned(whole, view.turn))
    size = (whole.height, whole.width)
    resize = model.shared_size or model.resize
    box, out = centre_crop(*size, None if isinstance(resize, str) else resize, model.crop)
    window = model.extractor.window
    if view.tile is not None and model.tile is not None:
        tile = next(one for one in Tiling(model.tile, model.overlap).tiles(*out) if (one.row, one.column) == view.tile)
        window = (tile.top, tile.left, *model.tile)
    if window is not None:
        box = part_of(box, out, window)
    picture, width, height = thumbnail(whole, NORMAL_SIDE, quality=78)
    shown = str(replace(view, picture=_relative(Path(view.picture), root)))
    return {"name": shown, "src": picture, "width": width, "height": height, "crop": _share(box, size)}


def _share(crop: CropBox, size: tuple[int, int]) -> list[float]:
    """top, left, height and width as shares of the image."""
    values = (crop.top / size[0], crop.left / size[1], crop.height / size[0], crop.width / size[1])
    return [round(value, 6) for value in values]


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
