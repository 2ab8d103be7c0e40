"""A bank split over ranks: the same bits as one process, started as users start it, on 2 and 3 ranks (CPU, gloo)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed
from tiny import picture, tiny_spade

from fastspade.distributed import DistributedSpade
from fastspade.errors import InputError

SCRIPT = Path(__file__).parents[1] / "programs" / "distributed_script.py"

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with normal/, test/ and bad.png."""
    place = tmp_path_factory.mktemp("distributed")
    for folder, first, count in (("normal", 0, 11), ("test", 100, 6)):
        (place / folder).mkdir()
        for i in range(count):
            picture(first + i).save(place / folder / f"{i:02}.png")
    (place / "bad.png").write_bytes(b"no picture")
    return place


def environment() -> dict[str, str]:
    """Of a rank: loopback only, one thread."""
    return os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("ranks, case", [(2, "same_bits,uneven,errors"), (3, "same_bits,uneven,errors")])
def test_ranks_give_the_bits_of_one_process(images, ranks, case):
    for told in images.glob("passed-*"):
        told.unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), str(SCRIPT), case, str(images)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(file.name for file in images.glob("passed-*")) == [f"passed-{rank}" for rank in range(ranks)]


@pytest.mark.parametrize("how", ["dies", "stops"])
def test_a_lost_rank_is_an_error_in_time(images, how):
    """Started without torchrun, which would end the others itself."""
    shared = environment() | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), how, str(images)], env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        _, said = ranks[0].communicate(timeout=60)
        assert ranks[0].returncode == 0 and (images / f"{how}-0-told").exists(), said
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def test_without_process_group_the_error_says_what_to_do():
    assert not torch.distributed.is_initialized()
    with pytest.raises(InputError, match="torchrun"):
        DistributedSpade("efficientnet_lite0")


def test_one_source_is_split_without_gaps(images):
    source = tiny_spade()._open(str(images / "normal"), False, "normal_images")
    parts = [source.part(0, 4), source.part(4, 4), source.part(4, 11)]
    assert [part.total for part in parts] == [4, 0, 7]
    assert [name for part in (parts[0], parts[2]) for batch in part for name in batch.names] == [
        name for batch in source for name in batch.names
    ]
