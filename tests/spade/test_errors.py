"""Bad input: each mistake gets one error that is a FastspadeError and the built-in kind, and names what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import LAYERS, TinyNet, picture, tiny_spade

from fastspade import FastspadeError, Spade, knn, pyramid_knn
from fastspade.errors import DeviceError, EngineError, MissingFileError, ModelFileError
from fastspade.search.cpu import compiled_engine
from fastspade.search.cuda import _translated, has_cuda_engine
from fastspade.search.validation import check_gallery_index

LEVELS = [torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 4, 4)]


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: pyramid_knn(LEVELS, LEVELS, 129), ValueError, r"kappa .*128.*got 129"),
        (lambda: pyramid_knn(LEVELS, LEVELS, 0), ValueError, r"kappa .*got 0"),
        (lambda: pyramid_knn(LEVELS, LEVELS, 1.0), TypeError, r"kappa must be an integer, got float"),
        (lambda: pyramid_knn(LEVELS[::-1], LEVELS[::-1], 1), ValueError, r"query must be ordered finest first.*8x8"),
        (lambda: pyramid_knn([], LEVELS, 1), ValueError, r"query must hold at least one level"),
        (lambda: pyramid_knn(LEVELS[0], LEVELS, 1), TypeError, r"query must be a sequence.*got Tensor"),
        (lambda: pyramid_knn(LEVELS[:1], LEVELS, 1), ValueError, r"query has 1 levels and gallery has 2"),
        (lambda: pyramid_knn([x.double() for x in LEVELS], LEVELS, 1), TypeError, r"query\[0\] must be float32.*got float64"),
        (lambda: pyramid_knn([x[0] for x in LEVELS], LEVELS, 1), ValueError, r"query\[0\] must have shape \(images, channels"),
        (lambda: pyramid_knn([x[:0] for x in LEVELS], LEVELS, 1), ValueError, r"query\[0\] must not be empty"),
        (lambda: pyramid_knn([LEVELS[0], LEVELS[1][:1]], LEVELS, 1), ValueError, r"query\[1\] holds 1 images"),
        (lambda: pyramid_knn([LEVELS[0][:, :3], LEVELS[1]], LEVELS, 1), ValueError, r"query\[0\] is \(3, 8, 8\).*\(4, 8, 8\)"),
        (lambda: pyramid_knn([x.to("meta") for x in LEVELS], LEVELS, 1), RuntimeError, r"query is on meta and gallery on cpu"),
        (lambda: pyramid_knn(LEVELS, LEVELS, 1, upsample="bicubic"), ValueError, r"upsample must be one of.*'bicubic'"),
        (lambda: pyramid_knn(LEVELS, LEVELS, 1, precision="low"), ValueError, r"precision must be one of.*'low'"),
        (lambda: pyramid_knn(LEVELS, LEVELS, 1, gallery_index=torch.tensor([[0], [2]])), ValueError, r"gallery_index .*\[0, 2\)"),
        (lambda: pyramid_knn(LEVELS, LEVELS, 1, gallery_index=torch.tensor([[0]])), ValueError, r"gallery_index .*\(2, K\)"),
        (lambda: pyramid_knn(LEVELS, LEVELS, 1, gallery_index=torch.zeros(2, 1)), TypeError, r"gallery_index must be int64"),
        (lambda: knn(torch.zeros(3, 4), torch.zeros(5, 6), 1), ValueError, r"query is \(3, 4\) and gallery \(5, 6\)"),
        (lambda: knn(torch.zeros(3, 4), torch.zeros(5, 4), 6), ValueError, r"kappa .*\(5\), got 6"),
        (lambda: knn([[1.0]], torch.zeros(5, 1), 1), TypeError, r"query must be a torch.Tensor.*got list"),
        (lambda: tiny_spade(k=0), ValueError, r"k must be at least 1, got 0"),
        (lambda: tiny_spade(k="3"), TypeError, r"k must be an integer, got str"),
        (lambda: tiny_spade(sigma=-1), ValueError, r"sigma .*got -1"),
        (lambda: tiny_spade(upsample="cubic"), ValueError, r"upsample must be one of.*'cubic'"),
        (lambda: tiny_spade(image_score="mean"), ValueError, r"image_score must be one of.*'mean'"),
        (lambda: tiny_spade(crop=65), ValueError, r"crop must not exceed resize \(64\), got 65"),
        (lambda: Spade("vgg99"), ValueError, r"backbone must be one of.*'vgg99'"),
        (lambda: Spade(TinyNet(), layers=["nowhere"]), ValueError, r"nowhere"),
        (lambda: Spade(TinyNet(), layers=LAYERS[::-1]).fit(picture(1)), ValueError, r"finest first"),
        (lambda: tiny_spade().score(picture(1)), ValueError, r"call fit"),
        (lambda: tiny_spade().fit([]), ValueError, r"normal_images .*at least one"),
        (lambda: tiny_spade().fit("no/such/folder"), FileNotFoundError, r"normal_images.*no/such/folder"),
        (lambda: tiny_spade().fit(3), TypeError, r"normal_images .*got int"),
        (lambda: tiny_spade(kappa=300, k=1).fit(picture(1)), ValueError, r"kappa .*256 pixels, got 300"),
        (lambda: tiny_spade().fit(np.zeros((4, 4, 3), dtype=np.int64)), TypeError, r"uint8.*got int64"),
        (lambda: tiny_spade(device="gpu"), ValueError, r"device .*'gpu'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_named(call, kind, says):
    with pytest.raises(kind, match=says) as caught:
        call()
    assert isinstance(caught.value, FastspadeError)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=str(tmp_path)):
        tiny_spade().fit(tmp_path)


def test_an_unreadable_image_is_named_and_nothing_is_fitted(folder):
    (folder / "zz.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    model = tiny_spade()
    with pytest.raises(ValueError, match=r"zz\.png") as caught:
        model.fit(folder)
    assert isinstance(caught.value, FastspadeError) and model.bank is None


def test_non_finite_features_name_the_layer(normal):
    net = TinyNet()
    with torch.no_grad():
        net.third[0].weight.fill_(float("nan"))
    model = Spade(net, layers=LAYERS, device="cpu", resize=64, crop=64, progress=False)
    with pytest.raises(ValueError, match="third") as caught:
        model.fit(normal)
    assert isinstance(caught.value, FastspadeError) and model.bank is None


@pytest.fixture
def saved(tmp_path, normal):
    path = tmp_path / "model.safetensors"
    tiny_spade().fit(normal).save(path)
    return path


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_model_is_refused(saved, keep):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelFileError, match="not a usable fastspade model"):
        Spade.load(saved, backbone=TinyNet())


def test_a_model_of_another_version_is_refused(saved):
    data = saved.read_bytes()
    assert data.count(b'\\"version\\":1') + data.count(b'\\"version\\": 1') == 1
    saved.write_bytes(data.replace(b'\\"version\\": 1', b'\\"version\\": 9').replace(b'\\"version\\":1', b'\\"version\\":9'))
    with pytest.raises(ModelFileError, match="version 9"):
        Spade.load(saved, backbone=TinyNet())


def test_a_model_with_other_weights_is_refused(saved):
    with pytest.raises(ModelFileError, match="fingerprint"):
        Spade.load(saved, backbone=TinyNet(seed=1))


def test_a_model_of_ones_own_backbone_needs_it(saved):
    with pytest.raises(ValueError, match="backbone must be given.*TinyNet"):
        Spade.load(saved)


def test_a_pickle_is_not_a_model(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"anything": torch.zeros(3)}, path)
    with pytest.raises(ModelFileError):
        Spade.load(path)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        Spade.load(tmp_path / "gone.safetensors")


def test_another_input_size_than_the_models_is_named(normal):
    model = tiny_spade().fit(normal)
    model.settings = replace(model.settings, resize=48, crop=48)
    with pytest.raises(ValueError, match=r"test_images give \(6, 12, 12\) .*\(6, 16, 16\)"):
        model.score(picture(1))


def test_gallery_index_may_stay_on_the_host_for_a_streamed_gallery_alone():
    index, device = torch.tensor([[2, 0]], dtype=torch.int32), torch.device("cuda", 0)
    found = check_gallery_index(index, 1, device, streamed=True)
    assert found.device.type == "cpu" and found.dtype == torch.int64 and found.tolist() == [[2, 0]]
    with pytest.raises(DeviceError, match="gallery_index is on cpu, but the features are on cuda:0"):
        check_gallery_index(index, 1, device)


@pytest.mark.skipif(not has_cuda_engine(), reason="this build of fastspade has no CUDA engine")
def test_errors_of_cuda_calls_become_python_s_with_the_call_they_come_from():
    engine = compiled_engine()
    with pytest.raises(torch.OutOfMemoryError, match="cudaMemsetAsync failed"):
        _translated(_raises(engine.CudaOutOfMemory("cudaMemsetAsync failed: gallery (1, 8, 4, 4)")), engine, device=0)
    with pytest.raises(EngineError, match="kernel launch failed"):
        _translated(_raises(engine.CudaError("kernel launch failed: gallery (1, 8, 4, 4)")), engine, device=0)
    if not torch.cuda.is_available():  # the driver is missing, or sees no device: the first call says so
        with pytest.raises(EngineError, match=r"^cuda\w+ failed: cudaError\w+ \(.*\) on device 0"):
            _translated(engine.cuda_gallery_layout, engine, device=0, gallery=[(8, 4, 4)], images=1, upsample=0, bfloat16=False)


def _raises(error):
    def call(**arguments):
        raise error

    return call


@pytest.mark.parametrize("make", [np.float32, np.array, torch.tensor])
def test_numbers_without_dimensions_are_numbers(make):
    model = tiny_spade(k=make(2) if make is not np.float32 else np.int64(2), sigma=make(2.5), window=make(8.0))
    assert (model.k, model.sigma, model.window) == (2, 2.5, 8.0)
    with pytest.raises(FastspadeError, match="sigma must be a finite number"):
        tiny_spade(sigma=make(True) if make is not np.float32 else np.bool_(True))
