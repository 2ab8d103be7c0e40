"""A large bank in a folder: how fast it opens, what a scored image reads, and what memory and time scoring takes.

    python benchmarks/bank.py make FOLDER [--gib 10]        (needs ".[demo]"; takes that much room on the disk)
    python benchmarks/bank.py open FOLDER                   into results/bank.json
    python benchmarks/bank.py score FOLDER --modes MODE...  into results/bank.json; modes: see MODES
    python benchmarks/bank.py reading FOLDER                into results/bank.json: mapped beside positioned reading
    rm -r FOLDER

`make` computes one shard of real features (efficientnet_lite0 on photographs that scikit-image ships) and repeats them,
scaled a little and with other embeddings, through the bank's own streaming writer until the size is reached.

Every measurement is a fresh process. Peak memory is the process's high-water mark (VmHWM, reset beforehand) less what was
resident before. Bytes read are counted by the kernel (/proc/self/io): `asked` is rchar, all that read calls returned, from
the page cache or not; `from_disk` is read_bytes, what came from the disk with the folder's pages dropped beforehand
(posix_fadvise), read-ahead included. The test images are in memory, so that nothing but the bank is read. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "bank.json"
SIDE, K = 224, 50
MIB = 1 << 20
# Bytes of features that scoring may hold; "memory" holds the whole bank, "default" has no limit given.
MODES = {"memory": 1 << 40, "default": None, "512 MiB": 512 * MIB, "128 MiB": 128 * MIB, "32 MiB": 32 * MIB}


def pictures(count: int, seed: int, columns: tuple[int, int]) -> Iterator[np.ndarray]:
    """(SIDE, SIDE, 3) uint8 crops of three textures, their left edge between two columns of the photograph."""
    from skimage import data

    random = np.random.default_rng(seed)
    for i in range(count):
        whole = getattr(data, ("brick", "grass", "gravel")[i % 3])()
        top, left = random.integers(0, 289), random.integers(*columns)
        yield np.repeat(whole[top : top + SIDE, left : left + SIDE, None], 3, axis=2)


def make(folder: Path, gib: float) -> None:
    import torch

    from fastspade import Bank, Spade
    from fastspade.backbones.extractor import Features
    from fastspade.bank.shard_writer import SHARD_BYTES
    from fastspade.search.levels import MemoryLevels, image_bytes

    model = Spade("efficientnet_lite0", k=K, resize=SIDE, crop=SIDE, device="cpu", progress=False)
    extractor = model.extractor
    first = next(iter(extractor.stream(list(pictures(1, 0, (0, 65))))))
    size = image_bytes(MemoryLevels(first.pyramid))
    images, real = int(gib * 2**30) // size + 1, SHARD_BYTES // size + 1
    kept: list[Features] = []

    def parts() -> Iterator[Features]:
        for part in extractor.stream(list(pictures(min(real, images), 0, (0, 65)))):
            kept.append(part)
            yield part
        done, generator, turn = sum(len(part.names) for part in kept), torch.Generator().manual_seed(0), 0
        while done < images:
            turn += 1
            for part in kept:
                spread = part.embeddings.std() * 0.1
                embeddings = part.embeddings + spread * torch.randn(part.embeddings.shape, generator=generator)
                pyramid = [level * (1 + 0.01 * turn) for level in part.pyramid]
                yield Features(embeddings, pyramid, [f"{name}_{turn}" for name in part.names])
                done += len(part.names)
                if done >= images:
                    break

    begun = time.perf_counter()
    bank = Bank.write(folder, parts(), extractor=extractor, options=model.options())
    print(f"{len(bank)} images, {bytes_of(folder) / 2**30:.2f} GiB, written in {time.perf_counter() - begun:.0f} s")


def bytes_of(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.iterdir())


# -- what the kernel says


def status(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def counted() -> dict[str, int]:
    values = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {"asked": int(values["rchar"]), "from_disk": int(values["read_bytes"])}


def begin() -> int:
    """Resets the high-water mark; returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def drop_pages(folder: Path) -> None:
    """What is read next comes from the disk."""
    for entry in folder.iterdir():
        file = os.open(entry, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


# -- one measurement, in a process of its own


def one_open(folder: Path, what: str, cold: bool) -> dict[str, Any]:
    """what: "bank", or "model", which is the bank and its network."""
    from fastspade import Bank, Spade
    from fastspade.backbones import load_backbone

    if what == "model":
        load_backbone("efficientnet_lite0")  # its imports are not the bank's doing
    if cold:
        drop_pages(folder)
    before, read, begun = begin(), counted(), time.perf_counter()
    opened = Bank.open(folder) if what == "bank" else Spade.load(folder, device="cpu", progress=False)
    seconds = time.perf_counter() - begun
    bank = opened if what == "bank" else opened.bank
    found = {name: value - read[name] for name, value in counted().items()}
    return {"seconds": seconds, "peak_mib": (status("VmHWM") - before) / MIB, "asked": found["asked"], "images": len(bank)}


def one_score(folder: Path, mode: str, images: int) -> dict[str, Any]:
    """All images twice: at first every normal image read comes from the disk and is verified; then it lies in the page cache."""
    import torch

    from fastspade import Spade

    test = list(pictures(images, 1, (288, 289)))
    model = Spade.load(folder, device="cpu", progress=False, memory_limit=MODES[mode])
    drop_pages(folder)
    for picture in test[:2]:
        model._features(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)
    before = begin()
    found: dict[str, Any] = {"images": images, "bank_images": len(model.bank)}
    if mode == "memory":
        begun = time.perf_counter()
        model.device_bank(model.bank.snapshot)
        found["load_seconds"] = time.perf_counter() - begun
    for name in ("first", "again"):
        read, begun = counted(), time.perf_counter()
        scores = [one.score for one in model.score_batches(test)]
        found[name] = {"images_a_second": images / (time.perf_counter() - begun)}
        found[name] |= {key: (value - read[key]) / images for key, value in counted().items()}
    return found | {"peak_mib": (status("VmHWM") - before) / MIB, "scores": scores}


def one_reading(folder: Path, mode: str, cold: bool, repeats: int) -> dict[str, Any]:
    """Mapped and positioned reading in turns, in one process: of images alone (mode "read", milliseconds per image), or of
    scoring test images with so many bytes of features held (milliseconds per test image)."""
    import torch

    from fastspade import Spade
    from fastspade.bank.shard import Shard

    ways = {"mapped": Shard._copy, "positioned": lambda shard, start, target: shard._fill(start, target.data)}
    model = Spade.load(folder, device="cpu", progress=False, memory_limit=MODES.get(mode))
    levels, test = model.bank.snapshot.levels, list(pictures(2, 1, (288, 289)))
    random, some = np.random.default_rng(0), min(len(levels), 512)
    levels.gather(torch.arange(8))
    list(model.score_batches(test))  # everything that is read below is verified first
    if mode == "read":
        for part in torch.arange(some).split(8):
            levels.gather(part)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats):
        for way in sorted(ways, reverse=turn % 2 == 0):
            Shard._copy = ways[way]
            parts = torch.from_numpy(random.permutation(some)[: 32 if cold else 128]).split(8)
            if cold:
                drop_pages(folder)
            begun = time.perf_counter()
            if mode == "read":
                for part in parts:
                    levels.gather(part)
            else:
                list(model.score_batches(test))
            images = sum(map(len, parts)) if mode == "read" else len(test)
            times[way].append(1000 * (time.perf_counter() - begun) / images)
    found: dict[str, Any] = {f"{way}_ms": statistics.median(several) for way, several in times.items()}
    return found | {"ratio": found["mapped_ms"] / found["positioned_ms"], "turns": repeats}


# -- all of them


def fresh(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "one", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def about_bank(folder: Path) -> dict[str, Any]:
    from fastspade import Bank
    from fastspade.search.levels import image_bytes

    bank = Bank.open(folder)
    return {
        "bytes": bytes_of(folder),
        "images": len(bank),
        "image_bytes": image_bytes(bank.snapshot.levels),
        "levels": [list(shape) for shape in bank.level_shapes],
        "embedding": bank.embeddings.shape[1],
        "shards": len(list(folder.glob("shard-*"))),
        "k": K,
    }


def keep(folder: Path, **results: Any) -> None:
    """Adds results to those of the same bank; a comparison of ways of reading may be of another one, which it names."""
    import machine

    about = about_bank(folder)
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if "reading" in results:
        machine.write(
            RESULTS,
            {key: value for key, value in known.items() if key != "machine"} | {"reading": {"bank": about} | results["reading"]},
        )
        return
    record = {key: value for key, value in known.items() if key != "machine"} if known.get("bank") == about else {}
    record["bank"] = about
    for name, value in results.items():
        record[name] = (record.get(name) or {}) | value
    machine.write(RESULTS, record)


def measure_open(folder: Path, repeats: int) -> dict[str, Any]:
    found = {}
    for what in ("bank", "model"):
        for cold in (True, False):
            runs = [fresh("open", folder, what, cold) for _ in range(repeats)]
            name = f"{what}, {'from the disk' if cold else 'in the page cache'}"
            found[name] = {
                "seconds": statistics.median(run["seconds"] for run in runs),
                "slowest_seconds": max(run["seconds"] for run in runs),
                "peak_mib": max(run["peak_mib"] for run in runs),
                "bytes_read": runs[0]["asked"],
                "runs": repeats,
            }
            print(name, found[name], flush=True)
    return found


def measure_reading(folder: Path) -> dict[str, Any]:
    found = {}
    for mode, turns in (("read", 30), ("32 MiB", 12), ("128 MiB", 12)):
        for cold in (False, True):
            name = f"{mode}, {'from the disk' if cold else 'in the page cache'}"
            found[name] = fresh("reading", folder, mode, cold, turns // 2 if cold else turns)
            print(name, found[name], flush=True)
    return found


def measure_score(folder: Path, modes: list[str], repeats: int, images: int) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in modes}
    for _ in range(repeats):  # in turns, so that whatever else the machine does hits all of them
        for mode in modes:
            runs[mode].append(fresh("score", folder, mode, images))
            print(mode, {key: value for key, value in runs[mode][-1].items() if key != "scores"}, flush=True)
    if len({json.dumps(run["scores"]) for several in runs.values() for run in several}) != 1:
        raise SystemExit("scores differ between modes")
    found = {}
    for mode, several in runs.items():
        found[mode] = {"memory_limit": MODES[mode], "peak_mib": max(run["peak_mib"] for run in several)}
        for name in ("first", "again"):
            rates = [run[name]["images_a_second"] for run in several]
            found[mode][name] = {"images_a_second": statistics.median(rates), "slowest": min(rates), "fastest": max(rates)}
            found[mode][name] |= {key: max(run[name][key] for run in several) for key in ("asked", "from_disk")}
        if mode == "memory":
            found[mode]["load_seconds"] = statistics.median(run["load_seconds"] for run in several)
        found[mode] |= {"images": images, "runs": repeats}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "open", "score", "reading", "one"])
    parser.add_argument("rest", nargs="+", metavar="FOLDER")
    parser.add_argument("--gib", type=float, default=10.0)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.what == "one":
        kind, folder, *values = arguments.rest
        path = Path(folder)
        if kind == "open":
            print(json.dumps(one_open(path, values[0], values[1] == "True")))
        elif kind == "reading":
            print(json.dumps(one_reading(path, values[0], values[1] == "True", int(values[2]))))
        else:
            print(json.dumps(one_score(path, values[0], int(values[1]))))
        return
    folder = Path(arguments.rest[0])
    if arguments.what == "make":
        make(folder, arguments.gib)
    elif arguments.what == "open":
        keep(folder, opening=measure_open(folder, arguments.repeats))
    elif arguments.what == "reading":
        keep(folder, reading=measure_reading(folder))
    else:
        keep(folder, scoring=measure_score(folder, arguments.modes, arguments.repeats, arguments.images))


if __name__ == "__main__":
    main()
