"""Near-duplicate photos: found by a perceptual hash and reported, never dropped.

Whether a photo is dropped must depend on its own content alone. Whether a similar photo should stay is the
merchant's decision: two photos of one product count as two records unless the product is the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrec.vision.hamming_components import hamming_components

HASH_BYTES: Final = 32
NEAR_BITS: Final = 20
"""Photos whose hashes differ in at most this many of 256 bits count as near-duplicates."""
_GRID: Final = (16, 17)
"""Rows and columns of cells."""


def perceptual_hashes(pixels: NDArray[np.uint8]) -> list[bytes]:
    """Compute difference hashes of pictures.

    A picture's brightness is averaged over 16 rows of 17 cells; each bit says whether a cell is brighter
    than the one to its left. Scaling, recompression and changes of overall brightness hardly move it. A
    picture smaller than the grid repeats its pixels.

    Args:
        pixels: uint8 (n, H, W, channels).

    Returns:
        n hashes of 32 bytes.
    """
    if not len(pixels):
        return []
    rows, columns = (np.array(_cells(pixels.shape[side + 1], count)) for side, count in enumerate(_GRID))
    # Sums of integers are exact, and a large picture shrinks before anything is converted. Whole rows are
    # added to each other first, which is by far the fastest order.
    bands = [
        pixels[:, top:bottom].sum(axis=1, dtype=np.uint32).sum(axis=2, dtype=np.int64) for top, bottom in rows
    ]
    # Column 0 is that before the first, so that a cell is a difference of two sums.
    sums = np.zeros((len(pixels), len(rows), pixels.shape[2] + 1), dtype=np.int64)
    np.cumsum(np.stack(bands, axis=1), axis=2, out=sums[:, :, 1:])
    areas = np.diff(rows) * np.diff(columns).T
    cells = (sums[:, :, columns[:, 1]] - sums[:, :, columns[:, 0]]) / areas
    bits = cells[:, :, 1:] > cells[:, :, :-1]
    packed = np.packbits(bits.reshape(len(pixels), 8 * HASH_BYTES), axis=1)
    return [row.tobytes() for row in packed]


def _cells(length: int, count: int) -> list[tuple[int, int]]:
    """Divide ``length`` pixels into ``count`` cells of nearly one size, of at least one pixel each."""
    starts = [i * length // count for i in range(count)]
    return [(start, max(start + 1, (i + 1) * length // count)) for i, start in enumerate(starts)]


def near_duplicates(hashes: Sequence[bytes], *, bits: int = NEAR_BITS) -> list[list[int]]:
    """Group the positions of hashes that differ in few bits.

    Args:
        hashes: n hashes of 32 bytes.
        bits: largest Hamming distance of two hashes that are linked.

    Returns:
        Connected groups of two or more positions, each ascending, in the order of their first positions.
    """
    distinct = sorted(set(hashes))
    codes = np.frombuffer(b"".join(distinct), dtype=np.uint8).reshape(len(distinct), HASH_BYTES)
    number = dict(zip(distinct, hamming_components(codes, bits=bits).tolist(), strict=True))
    groups: dict[int, list[int]] = {}
    for position, value in enumerate(hashes):
        groups.setdefault(number[value], []).append(position)
    return sorted(group for group in groups.values() if len(group) > 1)
