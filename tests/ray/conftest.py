"""A Ray of two workers on this machine, started once per test file, and pictures for it."""

from __future__ import annotations

import os
import signal

import pytest
import tiny
from tiny import picture


@pytest.fixture(scope="module", autouse=True)
def cluster(request):
    """Two workers on this machine, or as many as the test file's CPUS says."""
    ray = pytest.importorskip("ray", reason="fastspade.ray needs the extra 'ray'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for module in (tiny, request.module):
        ray.cloudpickle.register_pickle_by_value(module)  # workers do not know the tests' modules
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(
        num_cpus=getattr(request.module, "CPUS", 2), include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1"
    )
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)  # Ray's own outlives its shutdown, and with it this process's later tests
    for module in (tiny, request.module):
        ray.cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """22 test images in two folders, of two sizes."""
    place = tmp_path_factory.mktemp("photos")
    for i in range(22):
        folder = place / ("a" if i < 9 else "b")
        folder.mkdir(exist_ok=True)
        picture(100 + i, 64, 80 if i % 3 else 64).save(folder / f"{i:02}.png")
    return place
