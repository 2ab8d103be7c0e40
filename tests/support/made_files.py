"""Image files put together by hand, of kinds that no writer at hand makes."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def tiff(data: bytes | list[bytes], height: int, width: int, order: str = "<", **tags: int | tuple[int, ...]) -> bytes:
    """An uncompressed TIFF of one strip, or of one for each plane. tags: bits, photometric, samples, planar, ...; `order` "<" or ">"."""
    numbers = {"subfile": 254, "bits": 258, "photometric": 262, "fill_order": 266, "orientation": 274, "samples": 277, "planar": 284,
               "colormap": 320, "ink_set": 332, "extra": 338, "format": 339, "subsampling": 530}  # fmt: skip
    strips = [data] if isinstance(data, bytes) else data
    entries: dict[int, tuple[int, ...]] = {256: (width,), 257: (height,), 259: (1,), 278: (height,)}
    entries |= {numbers[name]: value if isinstance(value, tuple) else (value,) for name, value in tags.items()}
    entries[279] = tuple(len(strip) for strip in strips)
    entries[273] = (0,) * len(strips)
    start = 8 + 2 + 12 * len(entries) + 4
    sizes = {tag: 0 if len(values) == 1 else 4 * len(values) for tag, values in entries.items()}
    at = start + sum(sizes.values())
    offsets = []
    for strip in strips:
        offsets.append(at)
        at += len(strip)
    entries[273] = tuple(offsets)
    directory, beyond = struct.pack(order + "H", len(entries)), b""
    for tag in sorted(entries):
        values = entries[tag]
        packed = struct.pack(order + "I" * len(values), *values)
        directory += struct.pack(order + "HHI", tag, 4, len(values))
        directory += packed if len(values) == 1 else struct.pack(order + "I", start + len(beyond))
        beyond += b"" if len(values) == 1 else packed
    magic = b"II" if order == "<" else b"MM"
    return magic + struct.pack(order + "HI", 42, 8) + directory + struct.pack(order + "I", 0) + beyond + b"".join(strips)


def packed(values: np.ndarray, bits: int) -> bytes:
    """(H, W) unsigned numbers of some bits, every row from a whole byte on."""
    rows = []
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)))
    return b"".join(rows)


def png(rows: bytes, height: int, width: int, bits: int, colour: int, **chunks: bytes) -> bytes:
    """A PNG of unfiltered rows. colour: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA. chunks: PLTE, tRNS."""

    def chunk(kind: str, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind.encode() + body + struct.pack(">I", zlib.crc32(kind.encode() + body))

    size = len(rows) // height
    scan = b"".join(b"\0" + rows[i : i + size] for i in range(0, len(rows), size))
    header = chunk("IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    middle = b"".join(chunk(kind, body) for kind, body in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk("IDAT", zlib.compress(scan)) + chunk("IEND", b"")


def tga(pixels: np.ndarray, alpha_bits: int) -> bytes:
    """(H, W, 4) uint8, BGRA, from the top."""
    height, width = pixels.shape[:2]
    return struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, width, height, 32, 32 | alpha_bits) + pixels.tobytes()
