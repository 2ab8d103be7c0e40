"""Fit and score every demo category, print its figures, write its pictures."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastspade.demo.scenes import CATEGORIES, make_scene
from fastspade.demo.sheet import contact_sheet
from fastspade.errors import InputError


@dataclass(frozen=True)
class CategoryReport:
    """image_roc_auc and pixel_roc_auc of one category, with the default preset and with the paper's settings; seconds that fit and
    score took with the default."""

    name: str
    image_roc_auc: float
    pixel_roc_auc: float
    paper_image_roc_auc: float
    paper_pixel_roc_auc: float
    seconds: float


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic: P(defect scores higher than good), ties counting half."""
    labels, scores = np.asarray(labels, dtype=bool).ravel(), np.asarray(scores).ravel()
    positives = int(labels.sum())
    negatives = labels.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    return float((mean_rank[group[labels]].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def run_demo(
    out: Path, *, seed: int = 0, progress: bool = True, categories: tuple[str, ...] = CATEGORIES
) -> list[CategoryReport]:
    """Find seeded synthetic defects in real photographs with efficientnet_lite0, with the default preset and the paper's.

    out: folder to write: contact_sheet.png and overlays/<category>/<number>_<defect>.png, of the default. seed: fixes all data.
    Prints a table; returns one report per category.
    """
    from fastspade.spade import Spade

    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"out: {out} exists and is not a folder")
    reports, sheets = [], []
    print(
        f"{'':10s} {'default preset':^21s} {'preset paper':^21s}\n{'ROC-AUC':10s}"
        + 2 * f" {'image':>10s} {'pixel':>10s}"
        + " seconds"
    )
    for name in categories:
        scene = make_scene(name, seed)
        labels = np.array([image.defect != "good" for image in scene.test])
        masks = np.stack([image.mask for image in scene.test])
        measured: list[float] = []
        for preset in ("paper", "default"):
            start = time.perf_counter()
            model = Spade("efficientnet_lite0", preset=preset, device="cpu", progress=progress)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the paper's crop leaves some of the picture out
                result = model.fit(scene.normal).score([image.picture for image in scene.test])
            seconds = time.perf_counter() - start
            maps = np.asarray(result.anomaly_maps)  # the scenes have one size
            measured = [roc_auc(labels, result.image_scores), roc_auc(masks, maps), *measured]
        reports.append(CategoryReport(name, measured[0], measured[1], measured[2], measured[3], seconds))
        print(f"{name:10s}" + "".join(f" {value:10.4f}" for value in measured) + f" {seconds:7.1f}", flush=True)
        folder = out / "overlays" / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(scene.test):
            result.overlay(i).save(folder / f"{i:02d}_{image.defect}.png")
        sheets.append((name, scene.test, maps))
    contact_sheet(sheets).save(out / "contact_sheet.png")
    names = ("image_roc_auc", "pixel_roc_auc", "paper_image_roc_auc", "paper_pixel_roc_auc")
    means = (np.mean([getattr(report, name) for report in reports]) for name in names)
    print(f"{'mean':10s}" + "".join(f" {value:10.4f}" for value in means) + f" {sum(report.seconds for report in reports):7.1f}")
    print(f"pictures: {out / 'contact_sheet.png'}, {out / 'overlays'}")
    return reports
