"""SPADE as one torch module: images in, scores and maps out; for torch.compile, torch.export and serving.

A `Spade` reads files and keeps every detail of a match; a `SpadeModule` is only what runs between the prepared images and
the map, with the bank as its buffers, so that torch can see all of it as one graph.
"""

from fastspade.nn.export import export
from fastspade.nn.module import SpadeModule

__all__ = ["SpadeModule", "export"]
