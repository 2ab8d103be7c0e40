"""fastspade.ray.score on a local Ray of two workers: what it writes, from what, and what it refuses."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray.data", reason="fastspade.ray needs the extra 'ray'")
pa = pytest.importorskip("pyarrow", reason="fastspade.ray needs the extra 'ray'")

import pyarrow.fs as pafs  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import ray  # noqa: E402

import conftest  # noqa: E402
from conftest import LAYERS, TinyNet, picture, tiny_spade  # noqa: E402
from fastspade.errors import ImageReadError, InputError, MissingFileError  # noqa: E402
from fastspade.ray import decode_map, score  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two workers on this machine, started once."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.cloudpickle.register_pickle_by_value(conftest)  # workers do not know the tests' modules
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield
    ray.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(conftest)


@pytest.fixture(scope="module")
def model():
    fitted = tiny_spade(k=3, kappa=2).fit([picture(seed) for seed in range(6)])
    fitted.calibrate(0.2, 0.2)
    return fitted


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """22 test images in two folders, of two sizes."""
    place = tmp_path_factory.mktemp("photos")
    for i in range(22):
        folder = place / ("a" if i < 9 else "b")
        folder.mkdir(exist_ok=True)
        picture(100 + i, 64, 80 if i % 3 else 64).save(folder / f"{i:02}.png")
    return place


def rows_of(output, **options):
    return pq.read_table(str(output), **options).to_pylist()


def assert_same_scores(rows, expected):
    """Rows against a Result, to the bit; maps to within half a step of their PNG."""
    assert [row["name"] for row in rows] == expected.names
    assert [row["score"] for row in rows] == [image.score for image in expected.images]
    assert [row["decision"] for row in rows] == expected.decisions.tolist()
    assert [row["neighbors"] for row in rows] == expected.neighbors.tolist()
    assert np.array_equal(np.array([row["neighbor_distances"] for row in rows], np.float32), expected.neighbor_distances)
    for row, values in zip(rows, expected.anomaly_maps, strict=True):
        assert Image.open(io.BytesIO(row["map"])).mode == "I;16"
        assert (row["map_low"], row["map_high"]) == (values.min(), values.max())
        step = (float(values.max()) - float(values.min())) / 65535
        assert np.abs(decode_map(row) - values).max() <= 0.51 * step
    assert all(row["error"] is None for row in rows)


def test_folder_scores_equal_spade_score(model, photos, tmp_path):
    done = score(str(photos), model, output=tmp_path / "out", batch_size=4, images_per_part=8)
    assert (done.images, done.parts, done.resumed, done.unreadable) == (22, 3, 0, 0)
    assert_same_scores(rows_of(tmp_path / "out"), model.score(str(photos)))
