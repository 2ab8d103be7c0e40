"""What users' type checkers see. tests/project/test_typing.py has mypy read this strictly; it never runs.

assert_type fails where a type is another one; an ignored error that is none fails as well (warn_unused_ignores).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import assert_type

import fastspade
from fastspade import Bank, Result, Spade, SpadeModule, build_info, export, knn, pyramid_knn, score
from fastspade.arguments import Images, Options
from fastspade.distributed import DistributedSpade
from fastspade.evaluate import MetricValue, pro, roc_auc
from fastspade.search import PreparedGallery, SearchStatistics, last_statistics
from fastspade.sklearn import SpadeDetector
from fastspade.spade.result import ScoredImage
from fastspade.spade.threshold import Threshold

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Marks = NDArray[np.bool_]
array, tensor = np.zeros((2, 3), np.float32), torch.zeros(2, 3)
model = Spade(k=50, kappa=1, device="cpu")


def scores() -> None:
    assert_type(score("test", "good", k=3, backbone="resnet18"), Result)
    result = model.fit("good").score(["a.png", Path("b.png"), np.zeros((8, 8, 3), np.uint8), torch.zeros(3, 8, 8)])
    assert_type(result, Result)
    assert_type(result.names, list[str])
    assert_type(result.image_scores, Floats)
    assert_type(result.anomaly_maps, Floats | list[Floats])
    assert_type(result.neighbors, Integers)
    assert_type(result.matched_y, Integers | list[Integers])
    assert_type(result.decisions, Marks)
    assert_type(result.overlay(0), Image.Image)
    assert_type(model.score_batches("test"), Iterator[ScoredImage])
    for one in model.score_batches(DataLoader(TensorDataset(torch.zeros(2, 3, 8, 8)))):
        assert_type(one.score, float)
        assert_type(one.anomaly_map, Floats)
        assert_type(one.mask, Marks)
        assert_type(one.picture, Callable[[], Image.Image])
    assert_type(model.calibrate(target_fpr=0.01), Threshold)
    assert_type(Spade.load("parts.safetensors"), Spade)
    assert_type(model.bank, Bank | None)
    assert_type(model.add(["c.png"]), tuple[int, ...])


def of_my_own(images: Images, options: Options) -> Result:
    return Spade("resnet18", **options).fit(images).score(images)


def searches() -> None:
    assert_type(knn(tensor, tensor, 1), tuple[torch.Tensor, torch.Tensor])
    assert_type(knn(array, array, 1), tuple[Floats, Integers])
    assert_type(pyramid_knn([tensor], [tensor], 1), tuple[torch.Tensor, torch.Tensor])
    assert_type(pyramid_knn([array], [array], 1, upsample="nearest"), tuple[Floats, Integers])
    assert_type(pyramid_knn([tensor], PreparedGallery([tensor]), 1), tuple[torch.Tensor, torch.Tensor])
    assert_type(last_statistics(), SearchStatistics | None)


class Foreign:
    """An array of another library."""


def searches_of_another_library(query: Foreign, gallery: Foreign) -> None:
    assert_type(knn(query, gallery, 1), tuple[Foreign, Foreign])


def others() -> None:
    assert_type(SpadeModule(model).names, tuple[str, ...])
    export(model, "parts.pt2")
    assert_type(fastspade.__version__, str)
    assert_type(build_info()["cuda_architectures"], list[str])
    assert_type(roc_auc([0, 1], array[0]), MetricValue)
    assert_type(fastspade.evaluate.pro([array], [array > 0], fpr_limit=0.3), MetricValue)
    assert_type(pro(tensor, tensor), MetricValue)
    assert_type(DistributedSpade("resnet18", k=5, timeout=60).fit("good"), DistributedSpade)
    assert_type(SpadeDetector(k=5).fit(["a.png"]), SpadeDetector)
    assert_type(SpadeDetector(k=5).fit(["a.png"]).predict(["b.png"]), NDArray[np.int_])


def mistakes() -> None:
    score("test", "good", kapa=3)  # type: ignore[call-arg]
    Spade(k="50")  # type: ignore[arg-type]
    model.fit(3)  # type: ignore[arg-type]
    knn(tensor, tensor)  # type: ignore[call-overload]
    build_info()["compilers"]  # type: ignore[typeddict-item]
    fastspade.scores  # type: ignore[attr-defined]
