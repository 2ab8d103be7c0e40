"""Model files and bank folders made or altered by somebody hostile: a FastspadeError, and nothing else, ever."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import LAYERS, TinyNet, tiny_spade

from fastspade import Bank, Spade
from fastspade.bank.manifest import sealed
from fastspade.errors import FastspadeError, MissingFileError, ModelFileError

MUTATIONS = 10_000


def tiny_bank(path: Path, seed: int = 0) -> None:
    """Two shards; the second image of the first is gone."""
    generator = torch.Generator().manual_seed(seed)
    made = [
        Bank(
            torch.randn(4, 3, generator=generator),
            [torch.randn(4, 2, 3, 2, generator=generator), torch.randn(4, 3, 2, 1, generator=generator)],
            list("abcd"),
        )
        for _ in range(2)
    ]
    made[0].save(path)
    bank = Bank.open(path)
    bank.merge(Bank(made[1].embeddings[:2], [level[:2] for level in made[1].pyramid], ["ä", "b"]))
    bank.remove([1])


def contents(path: Path) -> list:
    bank = Bank.open(path)
    bank.verify()
    return [bank.ids, bank.names, bank.embeddings.tolist(), [level.tolist() for level in bank.pyramid], bank.options]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One of the ways in which files go wrong."""
    data = bytearray(data)
    at = chance.randrange(len(data))
    kind = chance.randrange(8)
    if kind < 3:
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 3:
        data[at] = chance.randrange(256)
    elif kind == 4:
        del data[at:]
    elif kind == 5:
        del data[at : at + chance.randrange(1, 9)]
    elif kind == 6:
        data[at:at] = chance.randbytes(chance.randrange(1, 9))
    else:
        size = chance.randrange(1, 65)
        data[at : at + size] = chance.choice([bytes(size), b"\xff" * size, chance.randbytes(size)])
    return bytes(data)


@pytest.mark.slow
def test_ten_thousand_mutations_of_a_folder(tmp_path, record_fault):
    path, chance = tmp_path / "bank", random.Random(1)
    tiny_bank(path)
    whole = contents(path)
    files = {entry: entry.read_bytes() for entry in path.iterdir() if entry.name != "lock"}
    assert len(files) == 3
    for _ in range(MUTATIONS):
        target = chance.choice(list(files))
        changed = mutated(files[target], chance)
        if changed == files[target]:
            changed = changed[:-1]
        target.write_bytes(changed)
        with pytest.raises(ModelFileError):
            contents(path)
        target.write_bytes(files[target])
    assert contents(path) == whole
    record_fault(
        "a file of a bank folder with bits flipped, or bytes changed, lost or added (seeded)", MUTATIONS, "ModelFileError"
    )


@pytest.mark.slow
def test_mutations_of_a_single_file(tmp_path, normal, record_fault):
    path, chance = tmp_path / "model.safetensors", random.Random(2)
    tiny_spade().fit(normal[:2]).save(path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for number in range(2000):
        changed = mutated(data[:header], chance) + data[header:] if number % 2 else data[:header] + mutated(data[header:], chance)
        path.write_bytes(changed if changed != data else data[:-1])
        with pytest.raises(ModelFileError):
            Spade.load(path, backbone=TinyNet())
    record_fault("a single model file with bits flipped, or bytes changed, lost or added (seeded)", 2000, "ModelFileError")


VALUES = [
    None,
    True,
    0,
    -1,
    1,
    2,
    7,
    1 << 31,
    1 << 62,
    10**40,
    1.5,
    float("nan"),
    "",
    "x",
    "/etc/passwd",
    "../x",
    [],
    [[]],
    {},
    [1, 2, 3],
    {"a": 1},
]


def places(values, at=()):
    """Paths to all values of a JSON document."""
    yield at
    for key, inner in values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ():
        yield from places(inner, (*at, key))


def replaced(values, at, chance):
    values = copy.deepcopy(values)
    inner = values
    for key in at[:-1]:
        inner = inner[key]
    if isinstance(inner, dict) and chance.random() < 0.2:
        del inner[at[-1]]
    else:
        inner[at[-1]] = chance.choice(VALUES)
    return values


@pytest.mark.slow
def test_manifests_with_a_valid_checksum_and_wrong_contents(tmp_path, record_fault):
    """What somebody hostile would write, who computes checksums too."""
    path, chance = tmp_path / "bank", random.Random(3)
    model = Spade(TinyNet(), layers=LAYERS, k=2, resize=64, crop=64, device="cpu", progress=False)
    model.fit(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8), path=path)
    model.calibrate()
    model.save(path)
    good = json.loads((path / "manifest.json").read_text())["bank"]
    everywhere = [at for at in places(good) if at]
    refused = 0
    for _ in range(2000):
        bad = replaced(good, chance.choice(everywhere), chance)
        (path / "manifest.json").write_bytes(sealed(json.dumps(bad).encode()))
        try:
            loaded = Spade.load(path, backbone=TinyNet(), device="cpu", progress=False)
        except FastspadeError:
            refused += 1
        else:  # a change that makes a bank all the same, such as another k
            loaded.bank.verify()
            assert len(loaded.bank) == 3
    assert refused > 1000
    record_fault("a manifest with a valid checksum, in which a value is wrong, missing or of another type (seeded)", 2000,
                 "a FastspadeError, or a bank where the value allows one")  # fmt: skip


def resealed(path: Path, **changes) -> None:
    manifest = path / "manifest.json"
    manifest.write_bytes(sealed(json.dumps(json.loads(manifest.read_text())["bank"] | changes).encode()))


def with_shard(path: Path, **changes) -> None:
    shards = json.loads((path / "manifest.json").read_text())["bank"]["shards"]
    resealed(path, shards=[shards[0] | changes, *shards[1:]])


def rewritten(path: Path, change) -> None:
    """Alters the first shard's tensors and makes all checksums fit again."""
    from fastspade.bank.layout import Layout

    bank = json.loads((path / "manifest.json").read_text())["bank"]
    file = path / bank["shards"][0]["file"]
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    sums = [list(hashlib.sha256(row.numpy().tobytes()).digest()) for row in tensors["features"]]
    tensors["sha256"] = torch.tensor(sums, dtype=torch.uint8)
    parts = [tensors[name].numpy().tobytes() for name in ("features", "embeddings", "sha256", "ids", "name_ends", "names")]
    layout = Layout(tuple(map(tuple, bank["levels"])), bank["embedding"], bank["dtype"])
    file.write_bytes(layout.header(4, len(tensors["names"])) + b"".join(parts))
    with_shard(path, sha256=hashlib.sha256(b"".join(parts[1:])).hexdigest(), name_bytes=len(tensors["names"]))


def link(path: Path, name: str, target: str) -> None:
    (path / name).unlink()
    (path / name).symlink_to(target)


def moved(path: Path) -> None:
    """A link to a shard of the same contents elsewhere."""
    shard = next(path.glob("shard-*"))
    shard.rename(path.parent / "elsewhere")
    shard.symlink_to(path.parent / "elsewhere")


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return open, ("/tmp/fastspade-was-executed", "w")


SHARD = "shard-" + 32 * "0" + ".safetensors"
CRAFTED = {
    "wrong version": lambda path: resealed(path, version=2),
    "another format": lambda path: resealed(path, format="fastspade-model"),
    "no images": lambda path: resealed(path, shards=[]),
    "all images gone": lambda path: resealed(path, shards=[shard | {"gone": "f0" if shard["images"] == 4 else "c0"} for shard in json.loads((path / "manifest.json").read_text())["bank"]["shards"]]),
    "more gone than there is": lambda path: with_shard(path, gone="ff"),
    "path traversal": lambda path: with_shard(path, file="../" + SHARD),
    "an absolute path": lambda path: with_shard(path, file="/etc/passwd"),
    "a shard named twice": lambda path: (lambda shards: resealed(path, shards=shards[:1] * 2))(json.loads((path / "manifest.json").read_text())["bank"]["shards"]),
    "a shard that is missing": lambda path: with_shard(path, file=SHARD),
    "another dtype": lambda path: resealed(path, dtype="float16"),
    "an unknown dtype": lambda path: resealed(path, dtype="int8"),
    "another shape": lambda path: resealed(path, levels=[[2, 3, 2], [3, 1, 2]]),
    "levels coarsest first": lambda path: resealed(path, levels=[[3, 2, 1], [2, 3, 2]]),
    "another embedding": lambda path: resealed(path, embedding=4),
    "more images than the shard has": lambda path: with_shard(path, images=5),
    "an enormous number of images": lambda path: with_shard(path, images=2**16),
    "enormous names": lambda path: with_shard(path, name_bytes=2**47),
    "an enormous embedding": lambda path: resealed(path, embedding=2**47),
    "enormous levels": lambda path: resealed(path, levels=[[2**20, 2**20, 2**7]]),
    "levels beyond all numbers": lambda path: resealed(path, levels=[[2**47, 2**47, 2**47]]),
    "nesting without end": lambda path: (path / "manifest.json").write_bytes(sealed(b"[" * 100_000)),
    "a manifest of 5 MiB": lambda path: (path / "manifest.json").write_bytes(sealed(b'["' + b"x" * (5 << 20) + b'"]')),
    "a sparse manifest of 1 TiB": lambda path: os.truncate(path / "manifest.json", 1 << 40),
    "an empty manifest": lambda path: (path / "manifest.json").write_bytes(b""),
    "a manifest that is no UTF-8": lambda path: (path / "manifest.json").write_bytes(sealed(b'{"format": "\xff\xfe"}')),
    "a pickle as manifest": lambda path: (path / "manifest.json").write_bytes(pickle.dumps(Trap())),
    "a pickle as shard": lambda path: next(path.glob("shard-*")).write_bytes(pickle.dumps(Trap())),
    "a manifest that is a link": lambda path: link(path, "manifest.json", "/etc/passwd"),
    "a manifest that is a link to itself": lambda path: link(path, "manifest.json", "manifest.json"),
    "a manifest that is an endless device": lambda path: link(path, "manifest.json", "/dev/zero"),
    "a manifest that is a pipe": lambda path: ((path / "manifest.json").unlink(), os.mkfifo(path / "manifest.json")),
    "a manifest that is a folder": lambda path: ((path / "manifest.json").unlink(), (path / "manifest.json").mkdir()),
    "a shard that is a link": moved,
    "features that are NaN": lambda path: rewritten(path, lambda t: t["features"][0, :1].fill_(torch.nan)),
    "features that are infinite": lambda path: rewritten(path, lambda t: t["features"][2].fill_(torch.inf)),
    "embeddings that are NaN": lambda path: rewritten(path, lambda t: t["embeddings"][0].fill_(torch.nan)),
    "an id given twice": lambda path: rewritten(path, lambda t: t["ids"].fill_(3)),
    "an id that is negative": lambda path: rewritten(path, lambda t: t["ids"][:1].fill_(-1)),
    "an id not given yet": lambda path: resealed(path, next_id=2),
    "names that overlap": lambda path: rewritten(path, lambda t: t["name_ends"].copy_(torch.tensor([2, 1, 3, 4]))),
    "names beyond their end": lambda path: rewritten(path, lambda t: t["name_ends"].copy_(torch.tensor([1, 2, 3, 2**62]))),
    "names that are no UTF-8": lambda path: rewritten(path, lambda t: t["names"].fill_(255)),
}  # fmt: skip


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_folders(case, tmp_path, record_fault):
    path = tmp_path / "bank"
    tiny_bank(path)
    CRAFTED[case](path)
    with pytest.raises((ModelFileError, MissingFileError)) as caught:
        contents(path)
    assert str(tmp_path) in str(caught.value) and len(str(caught.value)) < 500
    assert not Path("/tmp/fastspade-was-executed").exists()
    record_fault("bank folders crafted to deceive, with valid checksums: versions, shapes, types, paths, links, pipes, pickles, NaN", 1,
                 "ModelFileError; nothing outside the folder is read, nothing is executed")  # fmt: skip


def altered_header(data: bytes, **changes) -> bytes:
    """A single file whose header says something else, with a checksum that fits."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    inner = json.loads(header["__metadata__"]["fastspade"]) | changes
    text = json.dumps({name: value for name, value in inner.items() if value is not None})
    header["__metadata__"] = {"fastspade": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data[8 + length :]


def unsummed(data: bytes) -> dict:
    """Tensors of a single file, to be written without checksums."""
    return {name: tensor.clone() for name, tensor in load_file(data).items()}


SINGLE = {
    "header length beyond the file": lambda data: (1 << 40).to_bytes(8, "little") + data[8:],
    "header length of 2^64 - 1": lambda data: b"\xff" * 8 + data[8:],
    "header length 0": lambda data: bytes(8) + data[8:],
    "names of another number": lambda data: altered_header(data, names=["a"]),
    "names that are not text": lambda data: altered_header(data, names=[1, 2]),
    "names that are no list": lambda data: altered_header(data, names=7),
    "an id given twice": lambda data: altered_header(data, ids=[1, 1]),
    "ids that are not whole numbers": lambda data: altered_header(data, ids=[0.5, "x"]),
    "a next id that is in use": lambda data: altered_header(data, next_id=1),
    "an endless id": lambda data: altered_header(data, ids=[0, 10**400]),
    "shapes of other tensors": lambda data: altered_header(data, shapes={"embeddings": [2, 12]}),
    "options that are no object": lambda data: altered_header(data, options=[1]),
    "options unknown": lambda data: altered_header(data, options={"exec": "print()"}),
    "an option of the wrong type": lambda data: altered_header(data, options={"k": "many"}),
    "a backbone that is unknown": lambda data: altered_header(data, backbone={"name": "x"}),
    "no options": lambda data: altered_header(data, options=None),
    "a threshold that is not one": lambda data: altered_header(data, options={"threshold": [1]}),
    "a checksum missing": lambda data: altered_header(data, sha256={}),
}


@pytest.mark.parametrize("case", SINGLE)
def test_crafted_single_files(case, tmp_path, normal, record_fault):
    path = tmp_path / "model.safetensors"
    tiny_spade().fit(normal[:2]).save(path)
    path.write_bytes(SINGLE[case](path.read_bytes()))
    with pytest.raises(FastspadeError):
        Spade.load(path, backbone=TinyNet(), device="cpu")
    record_fault("single model files crafted to deceive, with valid checksums", 1, "a FastspadeError")


def test_a_single_file_of_an_old_version_loads(tmp_path, normal):
    path = tmp_path / "model.safetensors"
    model = tiny_spade().fit(normal[:2])
    model.save(path)
    tensors = load_file(path)
    header = dict(
        format="fastspade-model", version=1, options=model.options(), backbone=model.backbone.spec(), names=list(model.bank.names)
    )
    header["options"].pop("storage_dtype")
    header["shapes"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"fastspade": json.dumps(header)})
    again = Spade.load(path, backbone=TinyNet(), device="cpu")
    assert again.bank.ids == (0, 1) and torch.equal(again.bank.pyramid[0], model.bank.pyramid[0])
    tensors["level1"][0, 0, 0, 0] = torch.nan
    save_file(tensors, path, metadata={"fastspade": json.dumps(header)})
    with pytest.raises(ModelFileError, match="NaN"):
        Spade.load(path, backbone=TinyNet(), device="cpu")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory in use as Linux tells it")
def test_lying_headers_take_no_memory(tmp_path, record_fault):
    """In a process of its own, which cannot allocate more than a little."""
    program = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_bank_hostile as hostile
from limited_memory import at_most
from fastspade.errors import FastspadeError

cases = [name for name in hostile.CRAFTED if "enormous" in name or "beyond" in name or "TiB" in name or "MiB" in name or "without end" in name]
for number, case in enumerate(["", *cases]):
    path = Path(sys.argv[2]) / str(number)
    hostile.tiny_bank(path)
    if case:
        hostile.CRAFTED[case](path)
hostile.contents(Path(sys.argv[2]) / "0")
at_most(64 << 20)
for number in range(1, len(cases) + 1):
    try:
        hostile.contents(Path(sys.argv[2]) / str(number))
    except FastspadeError as error:
        assert "memory" not in f"{error} {error.__cause__!r}".lower(), error
print(len(cases))
"""
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) >= 7
    record_fault("manifests that claim enormous sizes", int(ended.stdout), "ModelFileError, where 64 MiB can be allocated")
