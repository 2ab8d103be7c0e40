"""Threads, worker processes and interrupted commands: the same bits, no hanging, nothing half-written."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture, tiny_spade
from torch.utils.data import DataLoader, Dataset

from fastspade import Spade, knn
from fastspade.cli import main

SCRIPT = Path(__file__).with_name("interrupted_command.py")
OPTIONS = ["--backbone", "efficientnet_lite0", "--k", "2", "--resize", "64", "--crop", "64", "--device", "cpu", "--num-workers", "1", "--quiet"]


# -- threads


@pytest.mark.parametrize("kept", ["in memory", "in a folder", "in a folder, read in parts"])
def test_eight_threads_score_the_same_bits_as_one(tmp_path, kept):
    model = tiny_spade()
    model.fit([picture(seed) for seed in range(8)], path=None if kept == "in memory" else tmp_path / "model")
    if kept.endswith("parts"):
        model.memory_limit = 3 * sum(level[0].numel() * 4 for level in model.bank.pyramid)
    batches = [[picture(100 + 3 * i + j) for j in range(3)] for i in range(8)]
    wanted = [model.score(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for found, one in zip(pool.map(model.score, batches), wanted, strict=True):
                assert np.array_equal(found.image_scores, one.image_scores)
                assert np.array_equal(found.anomaly_maps, one.anomaly_maps)


def test_threads_that_search_with_different_thread_counts_do_not_disturb_each_other():
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(300, 20, generator=generator), torch.randn(4000, 20, generator=generator)
    wanted = knn(query, gallery, 5)

    def search(threads: int):
        torch.set_num_threads(threads)
        return [knn(query, gallery, 5) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(search, (1, 2, 3, 4)):
            assert all(torch.equal(a, b) for one in found for a, b in zip(one, wanted, strict=True))


# -- processes


class Pictures(Dataset):
    """Seeded pictures as tensors; at module level, so that spawned workers can import it."""

    def __init__(self, first: int, count: int, search: bool = False) -> None:
        self.first, self.count, self.search = first, count, search

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> torch.Tensor:
        if self.search:  # a worker may use the engine too
            _, places = knn(torch.eye(40), torch.eye(40), 1)
            assert torch.equal(places[:, 0], torch.arange(40))
        return torch.from_numpy(np.array(picture(self.first + i))).permute(2, 0, 1)


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.timeout(120)
def test_worker_processes_fit_and_score_the_same_bits(start):
    """The parent has used its threads before, which a forked worker does not inherit."""

    def loader(first: int, count: int, workers: int) -> DataLoader:
        named = {"multiprocessing_context": start} if workers else {}
        return DataLoader(Pictures(first, count, search=workers > 0), batch_size=2, num_workers=workers, **named)

    wanted = tiny_spade().fit(loader(0, 6, 0)).score(loader(50, 4, 0))
    found = tiny_spade().fit(loader(0, 6, 2)).score(loader(50, 4, 2))
    assert np.array_equal(found.image_scores, wanted.image_scores)
    assert np.array_equal(found.anomaly_maps, wanted.anomaly_maps)


def scores_of(path: str) -> list[float]:
    from conftest import TinyNet

    model = Spade.load(path, backbone=TinyNet(), device="cpu", progress=False)
    return model.score([picture(70), picture(71)]).image_scores.tolist()


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.timeout(120)
def test_a_model_scores_in_worker_processes(tmp_path, start):
    path = str(tmp_path / "model")
    tiny_spade().fit([picture(seed) for seed in range(5)]).save(path)
    wanted = scores_of(path)
    # One torch thread a worker, as data loaders have it: torch's OpenMP threads do not survive a fork, whoever uses them.
    with multiprocessing.get_context(start).Pool(2, torch.set_num_threads, (1,)) as pool:
        assert pool.map(scores_of, [path] * 4) == [wanted] * 4


# -- interrupted commands


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    for i in range(12):
        picture(i).save(place / f"{i:02}.png")
    return place


@pytest.fixture(scope="module")
def fitted(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("fitted") / "model.safetensors"
    assert main(["fit", str(images), "-o", str(path), *OPTIONS]) == 0
    return path


def stop_after(reads: int, number: signal.Signals, command: list[str]) -> tuple[int, str]:
    """Runs a command and sends it a signal once it has read so many images. Its exit code, and what it wrote to stderr."""
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(reads), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "read\n", process.stderr.read()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def command(kind: str, out: Path, images: Path, fitted: Path) -> list[str]:
    if kind == "score":
        return ["score", str(fitted), str(images), "-o", str(out), "--save", "maps,heatmaps,overlays", "--device", "cpu", "--num-workers", "1",
                "--batch-size", "2", "--quiet"]  # fmt: skip
    return ["fit", str(images), "-o", str(out), "--batch-size", "2", *OPTIONS]


KINDS = [("fit", "model.safetensors"), ("fit", "model"), ("score", "out")]


@pytest.mark.parametrize("reads", [1, 9])
@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_ctrl_c_leaves_nothing_and_exits_with_130(tmp_path, images, fitted, kind, name, reads):
    status, errors = stop_after(reads, signal.SIGINT, command(kind, tmp_path / name, images, fitted))
    assert status == 130 and "interrupted" in errors and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_sigterm_leaves_no_output_and_the_command_can_be_run_again(tmp_path, images, fitted, kind, name):
    wanted = command(kind, tmp_path / name, images, fitted)
    status, _ = stop_after(9, signal.SIGTERM, wanted)
    assert status == -signal.SIGTERM and not (tmp_path / name).is_file() and not (tmp_path / name / "scores.csv").exists()
    assert main(wanted) == 0
    if kind == "fit":
        assert len(Spade.load(tmp_path / name, device="cpu").bank) == 12
    else:
        assert len((tmp_path / name / "scores.csv").read_text().splitlines()) == 13


def test_ctrl_c_in_python_leaves_the_old_model_as_it_was(tmp_path):
    path = tmp_path / "model"
    model = tiny_spade().fit([picture(seed) for seed in range(4)], path=path)
    before = model.score([picture(9)]).image_scores
    files = sorted(entry.name for entry in path.iterdir())

    with pytest.raises(KeyboardInterrupt):
        model.add(DataLoader(Interrupting(), batch_size=2))
    assert sorted(entry.name for entry in path.iterdir()) == files and len(model.bank) == 4
    assert np.array_equal(model.score([picture(9)]).image_scores, before)


class Interrupting(Dataset):
    """Somebody presses Ctrl-C while the seventh picture is read."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, i: int) -> torch.Tensor:
        if i == 6:
            raise KeyboardInterrupt
        return torch.from_numpy(np.array(picture(20 + i))).permute(2, 0, 1)
