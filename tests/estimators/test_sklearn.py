"""SpadeDetector as scikit-learn's own tools use it: its estimator checks, clones, pipelines, searches, pickles."""

from __future__ import annotations

import inspect
import math
import pickle

import numpy as np
import pytest
import torch
from tiny import LAYERS, TinyNet, picture
from torch import nn

pytest.importorskip("sklearn", minversion="1.6", reason="scikit-learn 1.6 or newer is not installed")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastspade import Spade
from fastspade.errors import InputError
from fastspade.sklearn import SpadeDetector

pytestmark = pytest.mark.slow  # runs scikit-learn's own checks of estimators

NORMAL = np.stack([np.array(picture(seed)) for seed in range(8)])
TEST = np.stack([np.array(picture(seed)) for seed in range(50, 54)])


def detector(**options) -> SpadeDetector:
    settings = dict(layers=LAYERS, k=3, resize=64, crop=64, sigma=1.0, device="cpu", num_workers=0) | options
    return SpadeDetector(TinyNet(), **settings)


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of calls on a handful of pixels: waking threads would take longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- scikit-learn's checks. They make tables of any width, so rows are shown as little square pictures.


class OneConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.only = nn.Conv2d(3, 6, 3, stride=2, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.only(images)


class TableDetector(SpadeDetector):
    """SpadeDetector with another reading of tables: numbers of any size become gray values of a square picture."""

    def _unflattened(self, table: np.ndarray) -> np.ndarray:
        side = math.ceil(math.sqrt(table.shape[1]))
        padded = np.zeros((len(table), side * side))
        padded[:, : table.shape[1]] = table
        return (0.5 + np.arctan(padded) / np.pi).reshape(-1, side, side)


ITSELF = "an image given to fit finds itself in the memory bank, so predict calls it normal; fit_predict leaves it out"
EXPECTED_FAILURES = {
    "check_outliers_train": ITSELF,
    "check_outliers_fit_predict": ITSELF,
    "check_estimators_overwrite_params": "joblib.hash differs between a torch module and its own deep copy",
}


@pytest.mark.filterwarnings("ignore:k=5 but there are")
@parametrize_with_checks(
    [
        TableDetector(
            OneConvolution(),
            layers=["only"],
            image_shape=(1, 1),
            contamination=0.1,
            k=5,
            resize=8,
            crop=8,
            device="cpu",
            num_workers=0,
            batch_size=64,
        )
    ],  # fmt: skip
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


# -- the estimator on images


def test_scores_are_spades_with_the_sign_turned():
    found = detector().fit(NORMAL)
    spade = Spade(TinyNet(), layers=LAYERS, k=3, resize=64, crop=64, sigma=1.0, device="cpu", progress=False).fit(list(NORMAL))
    wanted = spade.score(list(TEST))
    scores = found.score_samples(TEST)
    assert scores.dtype == np.float64 and np.array_equal(scores, -wanted.image_scores.astype(np.float64))
    assert np.array_equal(found.decision_function(TEST), scores - found.offset_)
    assert np.array_equal(found.predict(TEST), np.where(scores >= found.offset_, 1, -1))
    assert np.array_equal(found.anomaly_maps(TEST), wanted.anomaly_maps)


@pytest.mark.parametrize("options", [{"tile": 32, "overlap": 0.5}, {"roi": [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]}], ids=str)
def test_tiles_and_a_region_of_interest_are_spades(options):
    options = options | {"resize": (64, 64), "crop": None}
    found = detector(**options).fit(NORMAL)
    spade = Spade(TinyNet(), layers=LAYERS, k=3, sigma=1.0, device="cpu", progress=False, **options).fit(list(NORMAL))
    wanted = spade.score(list(TEST))
    assert np.array_equal(found.anomaly_maps(TEST), wanted.anomaly_maps) and len(found.training_scores_) == len(NORMAL)
    assert np.array_equal(found.score_samples(TEST), -wanted.image_scores.astype(np.float64))


@pytest.mark.parametrize("options", [{}, {"k_image": 2}, {"image_score": "max", "reflect_border": False}, {"k": 50}], ids=str)
@pytest.mark.filterwarnings("ignore:k=50 but there are")
def test_training_scores_leave_each_image_out(options):
    options = {
        "image_score": "knn"
    } | options  # relative scores leave an image out of the ceiling, not of the ceiling's galleries
    found = detector(**options).fit(NORMAL)
    for i in (0, 5):
        others = detector(**options).fit(np.delete(NORMAL, i, axis=0))
        assert found.training_scores_[i] == pytest.approx(others.score_samples(NORMAL[i : i + 1])[0], rel=1e-6)


def test_training_scores_of_duplicates_are_those_of_the_others():
    twins = np.repeat(NORMAL[:1], 6, axis=0)
    assert np.array_equal(detector().fit(twins).training_scores_, np.zeros(6))


def test_contamination_sets_how_many_of_the_training_images_are_outliers():
    assert (detector().fit_predict(NORMAL) == 1).all()
    labels = detector(contamination=0.25).fit_predict(NORMAL)
    assert (labels == -1).sum() == 2


def test_a_foreign_image_is_an_outlier():
    strange = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    strange[:, ::2] = 255
    assert detector().fit(NORMAL).predict(strange) == [-1]


def test_paths_pictures_arrays_and_tables_score_alike(folder, normal):
    paths = sorted(str(path) for path in folder.iterdir())
    stack = np.stack([np.array(image) for image in normal])
    wanted = detector().fit(stack).score_samples(stack)
    forms = [paths, np.array(paths), np.array(paths, dtype=object), normal, tuple(normal), list(stack), stack / 255.0]
    forms += [torch.from_numpy(stack).permute(0, 3, 1, 2), folder]
    for form in forms:
        assert np.allclose(detector().fit(form).score_samples(form), wanted, rtol=1e-4, atol=1e-9)
    table = detector(image_shape=(64, 64, 3))
    assert np.allclose(table.fit(stack.reshape(6, -1)).score_samples(stack.reshape(6, -1)), wanted)
    assert table.n_features_in_ == 64 * 64 * 3


def test_grayscale_stacks_are_read_as_images():
    gray = NORMAL[..., 0]
    assert np.array_equal(
        detector().fit(gray).training_scores_, detector().fit(np.repeat(gray[..., None], 3, -1)).training_scores_
    )


def test_fit_leaves_the_given_module_alone():
    module = TinyNet().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = SpadeDetector(module, layers=LAYERS, k=3, resize=64, crop=64, device="cpu").fit(NORMAL)
    assert module.training and found.backbone is module
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_fitted_detector_survives_pickling():
    found = detector().fit(NORMAL)
    again = pickle.loads(pickle.dumps(found))
    assert again.offset_ == found.offset_ and np.array_equal(again.score_samples(TEST), found.score_samples(TEST))


def test_clones_are_unfitted_and_keep_every_option():
    found = detector(kappa=2, contamination=0.1).fit(NORMAL)
    twin = clone(found)
    with pytest.raises(NotFittedError):
        twin.predict(TEST)
    with pytest.raises(NotFittedError):
        twin.anomaly_maps(TEST)
    mine, theirs = found.get_params(), twin.get_params()
    assert {n: v for n, v in mine.items() if n != "backbone"} == {n: v for n, v in theirs.items() if n != "backbone"}
    assert np.array_equal(twin.fit(NORMAL).score_samples(TEST), found.score_samples(TEST))


def test_every_option_of_spade_is_a_parameter():
    spade, mine = inspect.signature(Spade).parameters, inspect.signature(SpadeDetector).parameters
    assert set(mine) - set(spade) == {"contamination", "image_shape"} and set(spade) <= set(mine)
    differing = {name for name in spade if mine[name].default != spade[name].default}
    assert differing == {"progress"}


def test_it_works_in_a_pipeline_a_grid_search_and_cross_validation():
    noise = np.random.default_rng(0).integers(0, 16, NORMAL.shape)
    alike = (NORMAL[:1] * 0.9 + noise).astype(np.uint8)
    damaged = alike.copy()
    damaged[:, 20:44, 20:44] = [255, 0, 255]
    X, y = np.concatenate([alike, damaged]), np.repeat([1, -1], 8)
    pipeline = make_pipeline(FunctionTransformer(lambda images: images[:, ::-1]), detector())
    assert (pipeline.fit(alike).predict(damaged) == -1).all()

    def auc(estimator, X, y):
        return roc_auc_score(y, estimator.score_samples(X))

    normal_only = [(np.arange(0, 8, 2), np.r_[1:8:2, 9:16:2]), (np.arange(1, 8, 2), np.r_[0:8:2, 8:16:2])]
    search = GridSearchCV(detector(), {"image_score": ["knn", "max"]}, scoring=auc, cv=normal_only, error_score="raise").fit(X, y)
    assert search.best_score_ == 1
    labels = cross_val_predict(detector(), list(alike), cv=4)
    assert labels.shape == (8,) and set(labels) <= {1, -1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: detector().fit(NORMAL.reshape(8, -1)), r"for rows of pixels set image_shape; got an array \(8, 12288\)"),
        (lambda t: detector().fit(NORMAL[0]), r"X must hold one image or more, samples first; got one image \(64, 64, 3\)"),
        (lambda t: detector().fit(NORMAL[:1]), "X must hold at least 2 images.*n_samples = 1"),
        (lambda t: detector(contamination=0.7).fit(NORMAL), r"contamination must be 'auto' or a share in \(0, 0\.5\], got 0\.7"),
        (lambda t: detector(contamination="most").fit(NORMAL), "contamination must be 'auto' or a share"),
        (
            lambda t: detector(image_shape=(8, 8)).fit(np.zeros((3, 65))),
            r"X must have 64 features, image_shape's \(8, 8\); got 65",
        ),
        (lambda t: detector(image_shape=(8,)).fit(np.zeros((3, 8))), r"image_shape must be \(H, W\) or .*, got \(8,\)"),
        (lambda t: detector().fit(NORMAL).predict([t, t / "0.png"]), "X must name one image per item, but its 2 items hold 7"),
        (lambda t: detector(k=0).fit(NORMAL), "k must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_used_is_named(folder, call, message):
    with pytest.raises(InputError, match=message):
        call(folder)
