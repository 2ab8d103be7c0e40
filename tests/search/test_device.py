"""Which devices the CUDA engine runs on, by what a build has, what the driver serves and what the device is."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from tiny import LAYERS, TinyNet

from fastspade import Spade
from fastspade.cli.main import main
from fastspade.errors import DeviceError, InputError
from fastspade.search import device as devices
from fastspade.search.device import cuda_obstacle, pick_device

BUILT = "80-real 90-real 100-real 120 90a-real"


@pytest.fixture
def machine(monkeypatch):
    """A machine with GPUs of `capabilities`, a driver, and a build for `built` with a toolkit (None: no CUDA engine)."""

    def make(*capabilities, built=BUILT, toolkit=13000, driver=13000):
        engine = SimpleNamespace(
            compiler="", simd=lambda: "", cuda_architectures=built, cuda_versions=lambda: [toolkit, toolkit, driver]
        )
        for module in ("cpu", "device"):
            monkeypatch.setattr(f"fastspade.search.{module}.compiled_engine", lambda: engine)
        monkeypatch.setattr(devices, "has_cuda_engine", lambda: toolkit is not None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: capabilities[index or 0])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=None: f"GPU {index or 0}")
        devices._tell.cache_clear()

    yield make
    devices._tell.cache_clear()


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1), (13, 0)])
def test_a_device_with_an_image_or_ptx_is_taken_without_a_word(machine, capability):
    machine(capability)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pick_device(None) == torch.device("cuda")
    assert pick_device("cuda:0") == torch.device("cuda:0")


@pytest.mark.parametrize(
    ("capability", "build", "obstacle"),
    [
        ((7, 5), {}, r"GPU 0 has compute capability 7\.5; the CUDA engine needs 8\.0 or newer"),
        (
            (8, 0),
            {"built": "86 90a-real"},
            r"GPU 0 has compute capability 8\.0, and this build has code for 86 90a-real; .* 80 in FASTSPADE_CUDA_ARCH",
        ),
        (
            (11, 0),
            {"built": "80-real 90-real 100-real"},
            r"11\.0, and this build has code for .* 110 in FASTSPADE_CUDA_ARCHITECTURES",
        ),
        ((12, 0), {"built": "90a"}, "12.0, and this build has code for 90a"),  # PTX with a suffix is not portable
        (
            (12, 0),
            {"built": "90", "toolkit": 12080, "driver": 12040},
            r"has only PTX, of CUDA 12\.8; the driver serves CUDA 12\.4 .* 120 in FASTSPADE",
        ),
        (
            (9, 0),
            {"driver": 12080},
            r"driver serves CUDA 12\.8 at most, and this build has the CUDA 13\.0 runtime; update the driver, or build",
        ),
        ((9, 0), {"toolkit": None}, "this build of fastspade has no CUDA engine; build it where"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_another_device_is_left_for_the_cpu_with_a_word_and_refused_where_it_is_named(machine, capability, build, obstacle):
    machine(capability, **build)
    with pytest.warns(UserWarning, match=f"^the CPU is used: .*{obstacle}"):
        assert pick_device(None) == torch.device("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pick_device(None) == torch.device("cpu")  # said once
    with pytest.raises(DeviceError, match=f"^device 'cuda' is not available: .*{obstacle}"):
        pick_device("cuda")


def test_an_older_driver_of_the_same_major_version_serves_machine_code(machine):
    machine((9, 0), toolkit=12080, driver=12020)
    assert cuda_obstacle() is None


def test_without_a_gpu_the_cpu_is_taken_without_a_word(machine):
    machine()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pick_device(None) == torch.device("cpu")
    with pytest.raises(DeviceError, match="device 'cuda' is not available: 0 CUDA devices are visible"):
        pick_device("cuda")


def test_devices_are_told_apart_by_their_number(machine):
    machine((9, 0), (7, 0))
    assert pick_device("cuda:0").index == 0
    with pytest.raises(DeviceError, match=r"GPU 1 has compute capability 7\.0"):
        pick_device(torch.device("cuda", 1))
    with pytest.raises(DeviceError, match="2 CUDA devices are visible"):
        pick_device("cuda:2")
    with pytest.raises(InputError, match="must be a torch device"):
        pick_device("gpu")


def test_a_model_refuses_a_device_that_it_cannot_search_on(machine):
    machine((7, 5))
    with pytest.raises(DeviceError, match=r"compute capability 7\.5"):
        Spade(TinyNet(), layers=LAYERS, device="cuda")


def test_info_names_versions_devices_and_their_searches(machine, capsys):
    machine((9, 0), (8, 6), (7, 5), driver=13010)
    assert main(["info"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cuda_versions"] == {"toolkit": "13.0", "runtime": "13.0", "driver": "13.1"}
    found = [(device["name"], device["compute_capability"], device["search"]) for device in told["cuda_devices"]]
    assert found == [("GPU 0", "9.0", "sm90a"), ("GPU 1", "8.6", "sm80"), ("GPU 2", "7.5", None)]
    assert "needs 8.0" in told["cuda_devices"][2]["obstacle"] and told["cuda_devices"][0]["obstacle"] is None


def test_info_says_that_there_is_no_driver(machine, capsys):
    machine(driver=0)
    assert main(["info"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cuda_versions"]["driver"] is None and told["cuda_devices"] == []
