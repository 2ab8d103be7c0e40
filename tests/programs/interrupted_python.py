"""A program that fits and scores with Spade and is interrupted: it says "here" and waits until its standard input ends.

    python interrupted_python.py fit|score memory|folder|parts read|forward|gather PLACE

Prints, as JSON, what became of the call and whether everything else is as it was.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import numpy as np
from interrupted_command import stopping
from tiny import TinyNet, picture, tiny_spade

import fastspade.images.items
from fastspade.bank.stored import FileLevels

MOMENTS = {
    "read": (fastspade.images.items, "read_file"),  # in a decoding thread
    "forward": (TinyNet, "forward"),  # in the main thread, inside the network
    "gather": (FileLevels, "gather"),  # in the thread that reads the next part of the bank
}


def files_in(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def main(call: str, kept: str, moment: str, folder: str) -> None:
    place = Path(folder)
    for i in range(9):
        picture(100 + i).save(place / f"{i}.png")
    path = None if kept == "memory" else place / "model"
    model = tiny_spade(batch_size=2).fit([picture(seed) for seed in range(6)], path=path)
    if kept == "parts":
        model.memory_limit = 2 * model.bank.snapshot.levels.layout.image_bytes
    before, files = model.score([picture(50)]), files_in(place)
    owner, name = MOMENTS[moment]
    real = getattr(owner, name)
    setattr(owner, name, stopping(real, 3))
    try:
        model.score(str(place)) if call == "score" else model.fit(str(place), path=path)
        ended = "nothing"
    except BaseException as error:
        ended = type(error).__name__
    setattr(owner, name, real)
    left = [thread for thread in threading.enumerate() if thread.name.startswith("fastspade")]
    unchanged = files_in(place) == files and len(model.bank) == 6 and not left
    after = model.score([picture(50)])
    same = np.array_equal(after.image_scores, before.image_scores) and np.array_equal(after.anomaly_maps, before.anomaly_maps)
    print(json.dumps({"raised": ended, "unchanged": unchanged, "same bits": bool(same)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
