"""The benchmarks for a GPU, as far as the CPU can tell: every rival's path, the Triton kernel under its interpreter, what the
share of float64's neighbours notices, the profiler's table, the model's comparison and the smoke test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = [pytest.mark.skipif(not BENCHMARKS.exists(), reason="the tests do not run from a source checkout"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(name: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return ended.stdout


@pytest.mark.slow
def test_every_rival_runs_and_finds_the_neighbours_of_float64(tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed")
    told = run(
        "search_cuda.py",
        "--device",
        "cpu",
        "--tiny",
        "--cases",
        "full",
        "--out",
        str(tmp_path / "out.json"),
        TRITON_INTERPRET="1",
    )
    assert "failed" not in told and "left out" in told  # those that are not installed are named
    cases = json.loads((tmp_path / "out.json").read_text())["cases"]
    assert len(cases) == 13
    types = ("fp32", "tf32", "bf16", "fp16")
    rivals = {
        "torch.cdist + topk",
        *(f"addmm {kind} + {how}" for kind in types for how in ("min", "topk")),
        "Triton fused top-1 fp16",
    }
    rivals |= {"Triton fused top-1 tf32", "torch.compile(max-autotune) fp16 + min"}
    first = {name for name in cases[0]["results"] if not name.startswith(("fastspade", "faiss", "cuvs", "KeOps"))}
    assert first == rivals
    for case in cases:
        for name, result in case["results"].items():
            assert result["share_of_float64"] == 1 or "min" in name or "top-1" in name, (case["case"], name)
            assert min(result["milliseconds"], result["back_to_back_ms"], result["host_us"]) > 0
    text = " ".join(case["case"] for case in cases)
    assert all(word in text for word in ("batch=2", "NCHW", "channels last", "host memory", "black background", "nearest", "knn"))


TOP1 = """
import torch
from triton_top1 import top1_candidates
generator = torch.Generator().manual_seed(0)
for dtype in (torch.float16, torch.float32):
    query, gallery = (torch.randn(n, 19, generator=generator).to(dtype) for n in (21, 300))
    found = top1_candidates(query, gallery, gallery.float().square().sum(1), 2)
    distances = torch.cdist(query.double(), gallery.double())
    assert torch.equal(found, torch.stack([distances[:, :256].argmin(1), distances[:, 256:].argmin(1) + 256], 1)), dtype
"""


@pytest.mark.slow  # Triton must be imported by a process that interprets
def test_the_triton_kernel_finds_the_nearest_of_each_split():
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]),
    }
    ended = subprocess.run([sys.executable, "-c", TOP1], capture_output=True, text=True, env=environment, timeout=100)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_a_rerank_orders_by_exact_distances_and_ties_by_index():
    from rivals import rerank

    gallery = torch.tensor([[0.0], [2.0], [1.0], [-1.0], [5.0]])
    assert rerank(torch.tensor([[0.0], [4.0]]), gallery, torch.tensor([[4, 3, 2, 0], [1, 4, 2, 0]]), 3).tolist() == [
        [0, 2, 3],
        [4, 1, 2],
    ]


def test_the_share_of_float64_notices_a_wrong_neighbour_and_takes_a_tie():
    from agreement import float64_shares

    query = [torch.zeros(1, 1, 2, 2)]
    gallery = [torch.tensor([1.0, 2.0, 3.0, 2.0, 4.0, 5.0, 6.0, 1.0]).reshape(2, 1, 2, 2)]
    found = {
        "right": [[0, 7]] * 4,
        "tie": [[7, 0]] * 4,
        "second wrong": [[0, 1]] * 4,
        "half of rows": [[0, 7]] * 2 + [[4, 5]] * 2,
        "none": [[-1, -1]] * 4,
    }
    shares = float64_shares(
        {name: lambda rows=rows: torch.tensor(rows) for name, rows in found.items()}, query, gallery, 2, "nearest"
    )
    assert shares == {"right": 1, "tie": 1, "second wrong": 0.5, "half of rows": 0.5, "none": 0}


def test_stored_features_come_back_as_they_were(tmp_path):
    from features import STORED, load_features, save_features

    sides = tuple([torch.randn(n, 3, 4, 4), torch.randn(n, 5, 2, 2)] for n in (1, 2))
    save_features(tmp_path / "features.npz", sides)
    found = load_features(tmp_path / "features.npz")
    assert all(
        torch.equal(a, b.half()) for side, given in zip(found, sides, strict=True) for a, b in zip(side, given, strict=True)
    )
    assert STORED.stat().st_size < 12e6 and [level.shape for level in load_features(STORED)[1]] == [
        (20, 144, 28, 28),
        (20, 240, 14, 14),
        (20, 672, 7, 7),
    ]


def test_the_profile_s_table_keeps_preparation_search_finish_and_host_apart():
    from profile_cuda import table

    kernels = [
        ("void fastspade::cuda::search_sm90_kernel<fastspade::cuda::HalfOperand, 4>(Sm90Parameters)", 800.0, 2),
        ("fastspade::cuda::operand_kernel(PrepareParameters)", 30.0, 4),
        ("Memset (Device)", 2.0, 2),
        ("fastspade::cuda::redo_kernel(FinishParameters)", 10.0, 2),
        ("elementwise_kernel", 6.0, 2),
    ]
    lines = [line.split() for line in table(kernels, 100.0, 2)]
    found = {line[0]: line[1:] for line in lines if line[0] in ("preparation", "search", "finish", "other")}
    assert found == {
        "preparation": ["16.0", "3.0"],
        "search": ["400.0", "1.0"],
        "finish": ["5.0", "1.0"],
        "other": ["3.0", "1.0"],
    }
    assert lines[-1] == ["host,", "without", "waiting", "for", "the", "answer", "50.0"]


def test_every_kernel_of_the_engine_has_its_place_in_the_table():
    import re

    from profile_cuda import part_of

    sources = (BENCHMARKS.parent / "csrc" / "cuda").glob("*.cuh")
    kernels = {name for source in sources for name in re.findall(r"FASTSPADE_KERNEL\([^)]*\) (\w+_kernel)\(", source.read_text())}
    assert len(kernels) >= 9 and {name for name in kernels if part_of(name) == "other"} == set()


# As torch tells of an H200; the clock is in kHz.
H200 = {"name": "NVIDIA H200", "multi_processor_count": 131, "clock_rate": 1980000, "L2_cache_size": 62914560, "_hidden": 0}


@pytest.mark.parametrize("path", ["sm80", "sm90a"])
@pytest.mark.parametrize("device", ["NVIDIA H200", "NVIDIA B200"])
def test_the_model_is_compared_with_a_search_of_each_form(emulated, monkeypatch, capsys, path, device):
    import cuda_model

    monkeypatch.setenv("FASTSPADE_CUDA_PATH", path)
    monkeypatch.setattr(cuda_model, "PAPER", ((130, 16, 16), (40, 8, 8), (20, 4, 4)))
    monkeypatch.setattr(cuda_model, "IMAGES", 2)
    emulated.set_device(232448, 4, True)
    stored = json.loads((BENCHMARKS / "results" / "cuda_model.json").read_text())["instructions"]
    properties = SimpleNamespace(**{**H200, "name": device})
    counts = cuda_model.counts(cuda_model.planned(emulated, torch.device("cpu")), stored)
    found = cuda_model.compared_here(emulated, torch.device("cpu"), properties, stored, 1)
    assert found["path"] == path and found["properties"] == {name: properties.__dict__[name] for name in H200 if name[0] != "_"}
    assert [row["asked"] for row in found["rows"]] == [row["form"] for row in found["rows"]] == ["whole", "projections"]
    for row in found["rows"]:
        assert set(row) == {
            "device", "asked", "form", "refined", "assumed", "uncertain_rows", "measured_ms", "measured_by", "call",
            "times", "binds", "milliseconds", "measured / predicted",
        }  # fmt: skip
        assert row["device"] == device and row["measured_ms"] == row["call"][row["measured_by"]] > 0
        if device == "NVIDIA B200":
            assert row["times"] is row["binds"] is row["milliseconds"] is row["measured / predicted"] is None
            continue
        assert set(row["times"]) == {"products", "second-level cache", "shared memory", "instructions"}
        assert row["times"] == cuda_model.predicted(cuda_model.known(properties), counts[row["form"]])
        assert row["milliseconds"] == row["times"][row["binds"]] == max(row["times"].values()) > 0
        assert row["measured / predicted"] == pytest.approx(row["measured_ms"] / row["milliseconds"])
    whole, projections = found["rows"]
    assert whole["refined"] == whole["assumed"] == 1 and 0 < projections["refined"] < 0.2 and 0 < projections["assumed"] < 0.01
    assert ("not in the table" in capsys.readouterr().out) == (device == "NVIDIA B200")


def test_the_kernel_s_own_time_is_what_is_compared_where_the_profiler_sees_it(emulated, monkeypatch):
    import cuda_model

    monkeypatch.setattr(cuda_model, "PAPER", ((130, 16, 16), (40, 8, 8)))
    monkeypatch.setattr(cuda_model, "IMAGES", 1)
    emulated.set_device(232448, 1, True)
    kernels = [("search_sm90_kernel<4>", 6000.0, 3), ("finish_kernel", 900.0, 3), ("search_kernel<4, 64>", 3000.0, 3)]
    monkeypatch.setattr(cuda_model, "kernels_of", lambda *_: (kernels, 5.0))
    for one in cuda_model.measured(emulated, torch.device("cpu"), 3).values():
        assert one["measured_by"] == "kernel_ms" and one["measured_ms"] == 3.0


def test_a_device_has_its_own_clock_and_its_chip_s_rates():
    import cuda_model

    found, h100 = cuda_model.known(SimpleNamespace(**H200)), cuda_model.DEVICES[1]
    assert (found.name, found.limits, found.gigahertz) == ("NVIDIA H200", (232448, 131, True), 1.98)
    assert (h100.name, found.multiply_adds, found.l2) == ("H100", h100.multiply_adds, h100.l2)
    older = {name: value for name, value in H200.items() if name != "clock_rate"}
    assert cuda_model.known(SimpleNamespace(**{**older, "name": "NVIDIA A100-SXM4-80GB"})).gigahertz == 1.41
    assert cuda_model.known(SimpleNamespace(**{**H200, "name": "NVIDIA L4"})).multiply_adds == 512
    for name in ("NVIDIA L40S", "NVIDIA GeForce RTX 4090", "NVIDIA H20"):
        assert cuda_model.known(SimpleNamespace(**{**H200, "name": name})) is None


@pytest.mark.slow
def test_the_smoke_test_passes_on_the_cpu_and_names_the_first_wrong_value(capsys, monkeypatch):
    import gpu_smoke

    right, places = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([[3, 4]])
    assert gpu_smoke.first_wrong(right.float(), places, right, places) is None
    assert "at (0, 1) found pixel 5 at 2, float64 has 4 at 2" in gpu_smoke.first_wrong(
        right.float(), torch.tensor([[3, 5]]), right, places
    )
    assert "at (0, 0) found pixel 3 at 1.5" in gpu_smoke.first_wrong(torch.tensor([[1.5, 2.0]]), places, right, places)
    monkeypatch.setattr(sys, "argv", ["gpu_smoke.py", "--device", "cpu"])
    assert gpu_smoke.main() == 0 and "PASS cpu: 15 cases" in capsys.readouterr().out
    monkeypatch.setattr(
        gpu_smoke,
        "pyramid_knn",
        lambda *arguments, **options: [
            answer + 1
            for answer in gpu_smoke.reference.pyramid_knn(arguments[0], arguments[1], arguments[2], upsample="bilinear")
        ],
    )
    assert gpu_smoke.main() == 1 and "FAIL cpu, three levels: 400 of 400 differ; at (0, 0, 0, 0) found" in capsys.readouterr().out
