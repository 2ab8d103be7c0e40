"""fastspade.ray.score from and to an object store: a server of the S3 protocol on this machine."""

from __future__ import annotations

import pytest

pytest.importorskip("ray.data", reason="fastspade.ray needs the extra 'ray'")
server = pytest.importorskip("moto.server", reason="needs an S3 server, moto[s3,server]")

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from tiny import picture, tiny_spade

from fastspade.ray import score

pytestmark = pytest.mark.slow  # starts a Ray cluster


@pytest.fixture
def bucket():
    """The URI of a folder in an empty bucket without its query, the query, and the file system. User and password are secrets."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    query = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    store, _ = pafs.FileSystem.from_uri(f"s3://user:secret@bucket?{query}&allow_bucket_creation=true")
    store.create_dir("bucket")
    yield "s3://user:secret@bucket/", f"?{query}", store
    running.stop()


def test_images_and_scores_may_lie_in_a_bucket(bucket, photos):
    uri, query, store = bucket
    files = sorted(photos.rglob("*.png"))[:8]
    for file in files:
        with store.open_output_stream(f"bucket/photos/{file.name}") as out:
            out.write(file.read_bytes())
    with store.open_output_stream("bucket/table.parquet") as out:
        pq.write_table(pa.table({"bytes": [file.read_bytes() for file in files], "id": [file.name for file in files]}), out)
    model = tiny_spade(k=3).fit([picture(seed) for seed in range(6)])
    expected = [image.score for image in model.score([str(file) for file in files]).images]
    for source, options in (("photos", {}), ("table.parquet", {"name_column": "id"})):
        run = dict(output=f"{uri}out-{source}{query}", batch_size=4, images_per_part=2, **options)
        done = score(f"{uri}{source}{query}", model, **run)
        assert (done.images, done.parts, done.output) == (8, 4, f"s3://bucket/out-{source}")
        store.delete_file(f"bucket/out-{source}/part-000000001.parquet")  # as if the run had died before it
        assert score(f"{uri}{source}{query}", model, **run).resumed == 3
        rows = pq.read_table(f"bucket/out-{source}", filesystem=store).to_pylist()
        assert [row["score"] for row in rows] == expected
        assert [row["name"].rpartition("/")[2] for row in rows] == [file.name for file in files]
    for info in store.get_file_info(pafs.FileSelector("bucket", recursive=True)):
        if "/out-" in info.path and info.is_file:
            with store.open_input_stream(info.path) as file:
                assert b"secret" not in file.read(), info.path
