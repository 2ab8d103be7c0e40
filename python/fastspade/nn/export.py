"""A fitted Spade as one file: torch.export's archive of the whole scorer."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path

import torch

from fastspade._version import __version__
from fastspade.errors import InputError
from fastspade.files.home import user_path
from fastspade.nn.module import SpadeModule
from fastspade.spade import Spade

METADATA = "fastspade.json"  # its name among an exported program's extra files


def export(model: Spade, path: str | os.PathLike[str]) -> None:
    """Write a fitted Spade as one file that torch.export.load reads, for any batch size.

    path: a .pt2 file to write; it appears only when complete. The program runs on the model's device, and needs
    fastspade where it is loaded (`import fastspade.search` registers the search with torch), but not the network's code.
    Its extra file "fastspade.json" holds the options, the thresholds and the normal images' names.

    Raises InputError as SpadeModule does.
    """
    target = user_path(path)
    if target.suffix != ".pt2":
        raise InputError(f"path must end in .pt2, as torch.export's files do; got {target.name}")
    if not target.parent.is_dir():
        raise InputError(f"path: the folder {target.parent} does not exist")
    module = SpadeModule(model)
    example = torch.zeros(2, 3, *model.input_size, device=model.device)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
    known = None if model.threshold is None else model.threshold.as_dict()
    metadata = {"fastspade": __version__, "options": model.options(), "threshold": known, "names": list(module.names)}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fastspade-") as folder, warnings.catch_warnings():
        # Channels-last weights fill their storage in another order; they are stored and restored right all the same.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        aside = Path(folder, target.name)
        torch.export.save(program, aside, extra_files={METADATA: json.dumps(metadata)})
        os.replace(aside, target)
