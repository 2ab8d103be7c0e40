"""Connected regions of a binary mask, 8-connected, by runs: whole rows at a time, no per-pixel loop."""

from __future__ import annotations

import numpy as np


def label_regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """(H, W) bool -> the region number (0, 1, ...) of every true pixel in row-major order, and how many regions.

    Pixels that touch at an edge or a corner share a region. A run is a stretch of true pixels in a row; two runs in
    neighbouring rows belong together when their columns overlap or touch at a corner.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    row, start = np.nonzero(change == 1)
    stop = np.nonzero(change == -1)[1]  # exclusive; the same order, so the same rows
    if len(row) == 0:
        return np.empty(0, dtype=np.int64), 0
    root = _components(len(row), *_touching(row, start, stop, width))
    numbers, region = np.unique(root, return_inverse=True)
    return np.repeat(region, stop - start), len(numbers)


def _touching(row: np.ndarray, start: np.ndarray, stop: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (upper run, lower run) that touch. Runs are sorted; one key for row and column lets searchsorted find them."""
    stride = width + 2
    above = (row - 1) * stride
    # An upper run touches if its last pixel is at least start - 1 and its first pixel at most stop.
    first = np.searchsorted(row * stride + stop - 1, above + start - 1, side="left")
    last = np.searchsorted(row * stride + start, above + stop, side="right")
    count = np.maximum(last - first, 0)
    lower = np.repeat(np.arange(len(row)), count)
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(first, count) + offset, lower


def _components(size: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The smallest member of every vertex's component: hook the larger root on the smaller, halve all paths, repeat."""
    parent = np.arange(size)
    while len(left):
        a, b = parent[left], parent[right]
        apart = a != b
        if not apart.any():
            break
        left, right = left[apart], right[apart]
        low, high = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
        np.minimum.at(parent, high, low)
        while True:
            shorter = parent[parent]
            if np.array_equal(shorter, parent):
                break
            parent = shorter
    return parent
