"""fastspade.ray.score on a Ray of one CPU, which reading and scoring share."""

from __future__ import annotations

import pytest

pytest.importorskip("ray.data", reason="fastspade.ray needs the extra 'ray'")
pq = pytest.importorskip("pyarrow.parquet", reason="fastspade.ray needs the extra 'ray'")

import ray
from tiny import picture, tiny_spade

from fastspade.errors import InputError
from fastspade.ray import score

CPUS = 1
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["folder", "dataset"])
def test_one_cpu_scores_all(photos, tmp_path, kind):
    model = tiny_spade(k=3).fit([picture(seed) for seed in range(6)])
    wanted = model.score(str(photos))
    files = sorted(photos.rglob("*.png"))
    rows = ray.data.from_items([{"image": file.read_bytes(), "name": str(file)} for file in files])
    given = str(photos) if kind == "folder" else rows
    columns = {} if kind == "folder" else {"image_column": "image", "name_column": "name"}
    done = score(given, model, output=tmp_path / "out", batch_size=4, maps=False, progress=False, **columns)
    found = {row["name"]: row["score"] for row in pq.read_table(str(tmp_path / "out")).to_pylist()}
    assert done.images == len(found) == 22
    assert [found[name] for name in wanted.names] == [image.score for image in wanted.images]


def test_more_actors_than_it_has_room_for_are_refused(photos, tmp_path):
    model = tiny_spade(k=3).fit([picture(seed) for seed in range(6)])
    rows = ray.data.from_items([{"image": file.read_bytes(), "name": str(file)} for file in sorted(photos.rglob("*.png"))])
    with pytest.raises(InputError, match="concurrency"):
        score(rows, model, output=tmp_path / "out", concurrency=2)
