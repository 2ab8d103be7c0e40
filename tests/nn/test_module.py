"""SpadeModule: what Spade.score computes as one torch module, eager, compiled, and served from a file."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny import picture, tiny_spade

from fastspade import SpadeModule, cli, export
from fastspade.errors import InputError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TEST = [picture(seed) for seed in range(100, 105)]
IMAGES = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in TEST])

# What a server runs: torch and fastspade alone, none of this file's classes.
SERVE = """
import sys, numpy, torch, fastspade
program = torch.export.load(sys.argv[1]).module()
images = torch.from_numpy(numpy.load(sys.argv[2]))
found = [program(part) for part in images.split([1, 4])]
numpy.savez(sys.argv[3], *(torch.cat(parts).numpy() for parts in zip(*found)))
"""


def fitted(normal, **options):
    return tiny_spade(batch_size=len(TEST), **options).fit(normal)


# Every option that scores depend on, here or among REFUSED below.
HONOURED = [
    {},
    {"kappa": 4, "upsample": "nearest", "sigma": 0},
    {"local_average": True, "k": 2, "k_image": 5},
    {"image_score": "max", "k": 50},
    {"preset": "default", "image_score": "relative", "reflect_border": True},
    {"image_score": "top1%", "sigma": 2.5, "truncate": 3.0},
    {"resize": 80, "crop": 48, "precision": "fast"},
    {"storage_dtype": "float16", "reflect_border": True, "augment": "rotations"},
    {"storage_dtype": "bfloat16", "keep_crop": True},
]
REFUSED = [
    {"image_score": "reweighted"},
    {"window": 4.0},
    {"per_level": True},
    {"tile": 32, "overlap": 0.5, "aligned": True},
    {"roi": [(0, 0), (1, 0), (1, 1)]},
]


def test_every_option_of_spade_is_honoured_or_refused():
    tried = {name for options in HONOURED + REFUSED for name in options}
    assert tried == set(tiny_spade().options())


@pytest.mark.parametrize("options", HONOURED, ids=str)
@pytest.mark.filterwarnings("ignore:k=50 but there are 6")
def test_the_module_gives_the_scorers_own_bits(normal, options):
    model = fitted(normal, **{"keep_crop": True} | options)
    images = next(iter(model._open(TEST, False, "images"))).pixels  # prepared as Spade does
    scores, maps = SpadeModule(model)(images)
    wanted = model.score(TEST)
    assert scores.dtype == maps.dtype == torch.float32
    assert np.array_equal(scores.numpy(), wanted.image_scores)
    assert np.array_equal(maps.numpy(), wanted.anomaly_maps)


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_it_is_one_graph_with_the_same_answer(normal, device):
    module = SpadeModule(fitted(normal, device=device))
    images = IMAGES.to(device)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=False)
    for a, b in zip(compiled(images), module(images), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A fitted Spade and the file it was exported to."""
    model = fitted([picture(seed) for seed in range(6)], kappa=2)
    model.calibrate()
    path = tmp_path_factory.mktemp("exported") / "spade.pt2"
    export(model, path)
    return model, path


def test_an_exported_file_serves_the_same_scores_in_a_fresh_process(exported, tmp_path):
    model, path = exported
    np.save(tmp_path / "images.npy", IMAGES.numpy())
    command = [sys.executable, "-W", "error::UserWarning", "-c", SERVE]
    subprocess.run([*command, path, tmp_path / "images.npy", tmp_path / "found.npz"], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "found.npz")
    program = torch.export.load(path).module()
    for i, parts in enumerate(zip(*(program(part) for part in IMAGES.split([1, 4])), strict=True)):
        assert np.array_equal(found[f"arr_{i}"], torch.cat(parts).numpy())  # to the bit, in either process
    wanted = model.score(TEST)
    # The network may differ in the last bit between batch sizes.
    assert np.allclose(found["arr_0"], wanted.image_scores, rtol=1e-5, atol=1e-7)
    assert np.allclose(found["arr_1"], wanted.anomaly_maps, rtol=1e-4, atol=1e-6)


def test_an_exported_file_tells_what_it_was_made_from(exported):
    model, path = exported
    files = {"fastspade.json": ""}
    torch.export.load(path, extra_files=files)
    told = json.loads(files["fastspade.json"])
    assert told["options"] == model.options() and told["names"] == list(model.bank.names)
    assert told["threshold"]["image"] == model.threshold.image


def test_a_failed_export_leaves_the_old_file_alone(exported, tmp_path, monkeypatch):
    def full_disk(program, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    target = tmp_path / "spade.pt2"
    target.write_bytes(b"old")
    monkeypatch.setattr(torch.export, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export(exported[0], target)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


@pytest.mark.gpu
def test_on_a_gpu_the_module_and_its_export_agree_with_the_scorer(normal, tmp_path):
    model = fitted(normal, device="cuda")
    wanted = model.score(TEST)
    export(model, tmp_path / "spade.pt2")
    for form in (SpadeModule(model), SpadeModule(fitted(normal)).cuda(), torch.export.load(tmp_path / "spade.pt2").module()):
        scores, maps = (found.cpu().numpy() for found in form(IMAGES.cuda()))
        assert np.allclose(scores, wanted.image_scores, rtol=1e-4) and np.allclose(
            maps, wanted.anomaly_maps, rtol=1e-3, atol=1e-6
        )


def test_threads_may_share_a_module(normal):
    module = SpadeModule(fitted(normal))
    wanted = [module(image[None]) for image in IMAGES]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: module(IMAGES[i % 5][None]), range(40)))
    assert all(torch.equal(a, b) for i, pair in enumerate(found) for a, b in zip(pair, wanted[i % 5], strict=True))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"])
def test_copies_are_independent_and_equal(normal, again):
    module = SpadeModule(fitted(normal))
    twin = again(module)
    wanted = module(IMAGES)
    module.embeddings.zero_()
    assert all(torch.equal(a, b) for a, b in zip(twin(IMAGES), wanted, strict=True))


def test_the_scorer_keeps_working_when_its_module_is_converted(normal):
    model = fitted(normal)
    before = model.score(TEST).anomaly_maps
    SpadeModule(model).half()
    assert np.array_equal(model.score(TEST).anomaly_maps, before)


def test_the_command_line_exports(normal, tmp_path, capsys, monkeypatch):
    model = fitted(normal)
    monkeypatch.setattr("fastspade.spade.Spade.load", lambda path, **_: model)
    assert cli.main(["export", "model.safetensors", "-o", str(tmp_path / "spade.pt2")]) == 0
    assert "images (B, 3, 64 x 64) in [0, 1]" in capsys.readouterr().out
    assert (tmp_path / "spade.pt2").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda normal, t: SpadeModule(tiny_spade()), "model has no normal images yet"),
        (lambda normal, t: SpadeModule(fitted(normal, **REFUSED[0])), "image_score='reweighted', which cannot be"),
        (lambda normal, t: SpadeModule(fitted(normal, **REFUSED[1])), r"window=4\.0, which cannot be"),
        (
            lambda normal, t: SpadeModule(fitted(normal))(IMAGES[..., :32]),
            r"images must have shape \(B, 3, 64, 64\), got \(5, 3, 64, 32\)",
        ),
        (lambda normal, t: export(fitted(normal), t / "spade.onnx"), r"path must end in \.pt2.*got spade\.onnx"),
        (lambda normal, t: export(fitted(normal), t / "none" / "spade.pt2"), "path: the folder .*none does not exist"),
    ],
)
def test_what_cannot_be_a_module_is_an_error(normal, tmp_path, call, message):
    with pytest.raises(InputError, match=message):
        call(normal, tmp_path)
