"""Fixtures that many tests share. Nothing optional is imported here: a test of an optional package imports it itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of several processes that spin slow each other tenfold

import torch
from durations import add, write
from fault_table import record_fault, write_faults  # noqa: F401 (record_fault is a fixture)
from shared_folder import shared_folder
from tiny import picture

from fastspade.search.cuda import has_cuda_engine

LONGEST = ("cuda", "search", "ray")  # folders that take minutes: begun first, so that no process ends long after the others
FEW = 4  # processes at most that plain `pytest` starts: each holds torch
HELPERS = [str(Path(__file__).parent / name) for name in ("support", "programs")]  # on sys.path by pyproject.toml


def pytest_configure() -> None:
    """What starts tests in the background may have told them to ignore Ctrl-C, which programs they start would inherit; and
    these programs find tests/support."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["PYTHONPATH"] = os.pathsep.join([*HELPERS, *filter(None, [os.environ.get("PYTHONPATH")])])
    shared_folder()  # before processes start


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The suite runs in as many processes as there are processors; files that are named, and what is written down, in one."""
    alone = config.getoption("--write-faults") or config.args != config.getini("testpaths")
    return 0 if alone else min(len(os.sched_getaffinity(0)), FEW)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A folder's tests run in one process: they share what is slow to make, and Ray is started in one process only. Folders are
    begun in the order in which they were collected, not those of most tests first."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.rpartition("::")[0].rpartition("/")[0]

    return ByFolder(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-faults", action="store_true", help="bring SECURITY.md's table up to date for the tests run")
    parser.addoption("--write-durations", action="store_true", help="keep the seconds of every test file that ran")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    add(report.location[0], report.duration)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-faults"):
        write_faults()
    if session.config.getoption("--write-durations"):
        write()


@pytest.fixture(scope="module", autouse=True)
def handlers_left_alone() -> Iterator[None]:
    """A library that a test file starts may keep a signal handler of its own: the files after it would fail by it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in handlers} == handlers


@pytest.fixture
def normal() -> list:
    return [picture(seed) for seed in range(6)]


@pytest.fixture
def folder(tmp_path, normal):
    """A folder of six normal PNG files."""
    place = tmp_path / "good"
    place.mkdir()
    for i, image in enumerate(normal):
        image.save(place / f"{i}.png")
    return place


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What uses the emulated CUDA engine waits for it to be compiled, and so is slow. Tests that need a GPU say why they do not
    run. The longest folders come first."""
    items.sort(key=lambda item: LONGEST.index(name) if (name := item.path.parent.name) in LONGEST else len(LONGEST))
    reason = None
    if not torch.cuda.is_available():
        reason = "no CUDA device"
    elif not has_cuda_engine():
        reason = "this build of fastspade has no CUDA engine"
    for item in items:
        if "emulated" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
        if reason is not None and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """The CUDA engine with its kernels run on the host."""
    from emulated_engine import build

    return build(tmp_path_factory.mktemp("emulated"))
