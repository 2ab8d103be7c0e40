"""SPADE as a scikit-learn outlier detector (extra `sklearn`).

The estimator follows scikit-learn's conventions: samples come first, `fit` takes the normal ones, higher scores are more
normal, and everything that depends on data is in attributes that end in an underscore. For files, folders, maps of every
image and decisions about pixels, `fastspade.Spade` itself offers more; it is the attribute `model_`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fastspade.backbones import Backbone
from fastspade.errors import InputError, MissingDependencyError
from fastspade.spade import Result, Spade
from fastspade.spade.options import given, names, takes_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastspade.spade.options import OptionsDict

try:
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.utils import Tags
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingDependencyError(
        f'fastspade.sklearn needs scikit-learn 1.6 or newer ({error}); install the extra: pip install "fastspade[sklearn]"'
    ) from error

__all__ = ["SpadeDetector"]


class SpadeDetector(OutlierMixin, BaseEstimator):
    """Finds images unlike those it was fitted on (SPADE, arXiv 2005.02357), with scikit-learn's interface.

    X: images. An array (N, H, W), (N, H, W, 3) or (N, H, W, 4), uint8, uint16 or floating in [0, 1]; a sequence of
        paths, Pillow images or such arrays; a tensor (N, 3, H, W); or what else `Spade.fit` takes, such as a folder.
        With image_shape an array (N, H * W * channels) of flattened images.

    backbone, options: those of `fastspade.Spade`, by the same names; each is a parameter.
    contamination: the share of the images given to `fit` that count as outliers, in (0, 0.5]; it sets offset_. "auto":
        none of them, the right choice where all are known to be good.
    image_shape: (H, W) or (H, W, channels) of images that come as the rows of a table; None where they come as images.

    After fit: model_, the fitted Spade; training_scores_ (N,), the score of every image given to fit against all the
    others (leave one out); offset_, the score below which an image is an outlier; n_features_in_, with image_shape.

    `fit_predict(X)` judges every image of X against all the others, while `fit(X).predict(X)` finds each of them in the
    memory bank and so calls nearly all normal: predict is for new images.
    """

    @takes_options(progress=False)
    def __init__(
        self,
        backbone: str | torch.nn.Module | Backbone | None = None,
        *,
        contamination: float | str = "auto",
        image_shape: tuple[int, ...] | None = None,
        **options: Unpack[OptionsDict],
    ) -> None:
        self.backbone, self.contamination, self.image_shape = backbone, contamination, image_shape
        loaded = isinstance(backbone, Backbone)
        for name, value in given({"progress": False, **options}, "SpadeDetector()", loaded=loaded).items():
            setattr(self, name, value)  # as they are: scikit-learn wants them checked by fit

    def fit(self, X: Any, y: Any = None) -> SpadeDetector:
        """Learn what is normal from X, whose labels y are not looked at. Returns self.

        Raises InputError or DtypeError (fastspade.errors), both also what scikit-learn expects.
        """
        images = self._images(X, reset=True)
        share = self._contamination()
        options = {name: getattr(self, name) for name in names()}
        # fit changes no parameter: Spade takes a module as its own, puts it in eval mode and moves it.
        backbone = copy.deepcopy(self.backbone) if isinstance(self.backbone, torch.nn.Module) else self.backbone
        model = Spade(backbone, **options).fit(images)
        if len(model.fitted_bank()) < 2:
            raise InputError("X must hold at least 2 images, so that one can be compared with another; got n_samples = 1")
        self.model_ = model
        self.training_scores_ = -model.normal_scores()
        self.offset_ = float(np.percentile(self.training_scores_, 100 * share))
        return self

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """(N,) float64: minus Spade's image scores, so that higher is more normal."""
        return -np.asarray(self._score(X).image_scores, dtype=np.float64)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """(N,) float64: score_samples less offset_; below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int_]:
        """(N,) int: 1 for images that look normal, -1 for outliers."""
        return _labels(self.decision_function(X))

    def fit_predict(self, X: Any, y: Any = None) -> NDArray[np.int_]:
        """(N,) int: fit, and judge every image of X against all the others; 1 for normal ones, -1 for outliers."""
        return _labels(self.fit(X).training_scores_ - self.offset_)

    def anomaly_maps(self, X: Any) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """(N, H, W) float32: where each image differs; a list where the images differ in size. Higher is more anomalous."""
        return self._score(X).anomaly_maps

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.input_tags.three_d_array = self.image_shape is None
        return tags

    def _score(self, X: Any) -> Result:
        check_is_fitted(self, "model_")
        images = self._images(X, reset=False)
        result = self.model_.score(images)
        if isinstance(images, list) and len(result) != len(images):
            raise InputError(f"X must name one image per item, but its {len(images)} items hold {len(result)} images")
        return result

    def _images(self, X: Any, *, reset: bool) -> Any:
        """X as Spade takes it: a list with one item a sample wherever X is a sequence of samples."""
        if self.image_shape is not None:
            return list(self._unflattened(validate_data(self, X, reset=reset)))
        if isinstance(X, (str, Path, Image.Image, torch.Tensor)) or not isinstance(X, Sequence) and not hasattr(X, "__array__"):
            return X
        if hasattr(X, "__array__"):
            X = np.asarray(X)
            if X.ndim == 2 and X.dtype.kind not in "OUS":
                raise InputError(f"X must be images (N, H, W, 3); for rows of pixels set image_shape; got an array {X.shape}")
            if X.ndim == 3 and X.shape[-1] in (1, 3, 4):
                raise InputError(f"X must hold one image or more, samples first; got one image {X.shape}, pass X[None]")
        return [str(one) if isinstance(one, np.str_) else one for one in X]

    def _unflattened(self, table: np.ndarray) -> np.ndarray:
        """(N, H * W * channels) -> (N, H, W) or (N, H, W, channels)."""
        shape = tuple(self.image_shape or ())
        if len(shape) not in (2, 3) or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1 for n in shape):
            raise InputError(f"image_shape must be (H, W) or (H, W, channels), got {self.image_shape!r}")
        if table.shape[1] != math.prod(shape):
            raise InputError(f"X must have {math.prod(shape)} features, image_shape's {shape}; got {table.shape[1]}")
        return table.reshape(-1, *shape)

    def _contamination(self) -> float:
        value = self.contamination
        if isinstance(value, str) and value == "auto":
            return 0.0
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value <= 0.5:
            raise InputError(f"contamination must be 'auto' or a share in (0, 0.5], got {value!r}")
        return float(value)


def _labels(decision: np.ndarray) -> NDArray[np.int_]:
    return np.where(decision >= 0, 1, -1)
