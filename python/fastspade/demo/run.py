"""Fit and score every demo category, print its figures, write its pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastspade.demo.scenes import CATEGORIES, make_scene
from fastspade.demo.sheet import contact_sheet
from fastspade.errors import InputError


@dataclass(frozen=True)
class CategoryReport:
    """image_roc_auc and pixel_roc_auc of one category; seconds of fit and score together."""

    name: str
    image_roc_auc: float
    pixel_roc_auc: float
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


def run_demo(out: Path, *, seed: int = 0, progress: bool = True, categories: tuple[str, ...] = CATEGORIES) -> list[CategoryReport]:
    """Run SPADE with efficientnet_lite0 on crops of real photographs with seeded synthetic defects.

    out: folder to write: contact_sheet.png and overlays/<category>/<number>_<defect>.png. seed: fixes all data.
    Prints a table; returns one report a category.
    """
    from fastspade.spade import Spade

    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"out: {out} exists and is not a folder")
    reports, sheets = [], []
    print(f"{'category':10s} {'image ROC-AUC':>14s} {'pixel ROC-AUC':>14s} {'seconds':>8s}")
    for name in categories:
        scene = make_scene(name, seed)
        start = time.perf_counter()
        # The crops have no border to cut off, so resize and crop are the same here.
        model = Spade("efficientnet_lite0", k=50, k_image=3, resize=224, crop=224, device="cpu", progress=progress)
        result = model.fit(scene.normal).score([image.picture for image in scene.test])
        seconds = time.perf_counter() - start
        maps = np.asarray(result.anomaly_maps)  # the scenes have one size
        masks = np.stack([image.mask for image in scene.test])
        report = CategoryReport(
            name,
            roc_auc(np.array([image.defect != "good" for image in scene.test]), result.image_scores),
            roc_auc(masks, maps),
            seconds,
        )
        print(f"{name:10s} {report.image_roc_auc:14.4f} {report.pixel_roc_auc:14.4f} {seconds:8.1f}", flush=True)
        folder = out / "overlays" / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(scene.test):
            result.overlay(i).save(folder / f"{i:02d}_{image.defect}.png")
        sheets.append((name, scene.test, maps))
        reports.append(report)
    contact_sheet(sheets).save(out / "contact_sheet.png")
    print(
        f"{'mean':10s} {np.mean([r.image_roc_auc for r in reports]):14.4f} "
        f"{np.mean([r.pixel_roc_auc for r in reports]):14.4f} {sum(r.seconds for r in reports):8.1f}"
    )
    print(f"pictures: {out / 'contact_sheet.png'}, {out / 'overlays'}")
    return reports
