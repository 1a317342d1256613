"""The discrete Gaussian's cumulative table: exact to 2**-240, and what its first 16 and 48 bits decide.

The integers are cut into cells of 2**shift; cell j holds those from j * 2**shift to (j + 1) * 2**shift - 1. A
cell's weight is the density at its point nearest zero, which is the density's largest value there. With
shift = 0 a cell is one integer and its weight the density itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

PREFIX_BITS = 16
WORD_BITS = 48
EXACT_BITS = 240
DIGITS = 110
"""Decimal digits of every exact exponential: 365 bits."""

UNDECIDED = np.iinfo(np.int32).min
"""Stands in :attr:`GaussianTable.decided` where 16 bits don't fix the cell."""

_REACH = 17
"""Cells go as far as 17 sigma: beyond it the law has mass below erfc(17 / sqrt(2)) < 2**-208."""

_LARGEST_CELLS = 1024
"""Largest sigma in cells; a table has 36 entries for each at most, and is built in some 50 ms."""

_WEIGHT_BITS = 320


@dataclass(frozen=True)
class GaussianTable:
    """One sigma's table. Cells are counted from ``-half`` to ``half - 1``; all arrays are read-only.

    Attributes:
        shift: cells are 2**shift integers wide.
        half: cells on each side of zero.
        exact: (2 * half,) cumulative probabilities in units of 2**-240, rounded down; the last is 2**240.
            A uniform u below 2**240 falls into the cell with as many entries at or below u before it.
        words: the same cut to 48 bits, uint64.
        first: (65536,) int32, how many of ``words`` lie below each 16-bit prefix's first word.
        decided: (65536,) int32, the cell where the prefix fixes it, else ``UNDECIDED``.
        sure: (2 * half,) uint16: a 16-bit uniform below it accepts any integer of the cell.

    """

    shift: int
    half: int
    exact: tuple[int, ...]
    words: NDArray[np.uint64]
    first: NDArray[np.int32]
    decided: NDArray[np.int32]
    sure: NDArray[np.uint16]


@lru_cache(maxsize=8)
def gaussian_table(sigma: float) -> GaussianTable:
    """Build the table of ``sigma``, from 0.01 to 2**30.

    A cell's probability is exact to 2**-239: weights have errors below 2**-289 (see :func:`_weights`), their
    sum is at least 1, and what a cumulative probability loses by rounding is below 2**-240.
    """
    shift = max(0, math.ceil(math.log2(sigma / _LARGEST_CELLS)))
    half = math.ceil(_REACH * sigma / (1 << shift)) + 1
    width = 1 << shift
    # Cell m is nearest zero at m * width, and cell -1 - m at -(m * width + 1).
    above = _weights(half, width**2, 0, 0, sigma=sigma)
    below = _weights(half, width**2, 2 * width, 1, sigma=sigma)
    cumulative = list(accumulate(below[::-1] + above))
    exact = tuple((value << EXACT_BITS) // cumulative[-1] for value in cumulative)
    # The last is 2**48, which no word reaches.
    words = np.array([value >> (EXACT_BITS - WORD_BITS) for value in exact], dtype=np.uint64)
    prefixes = np.arange((1 << PREFIX_BITS) + 1, dtype=np.uint64) << np.uint64(WORD_BITS - PREFIX_BITS)
    # A cut whose 48 bits are a prefix's first word lies inside that prefix, or at its start: left undecided.
    counts = np.searchsorted(words, prefixes, side="left").astype(np.int32)
    first, following = counts[:-1], counts[1:]
    decided = np.where(first == following, first - np.int32(half), np.int32(UNDECIDED))
    table = GaussianTable(
        shift=shift,
        half=half,
        exact=exact,
        words=words,
        first=first,
        decided=decided,
        sure=_sure(half, shift, sigma=sigma),
    )
    for array in (table.words, table.first, table.decided, table.sure):
        array.flags.writeable = False
    return table


def _weights(count: int, square: int, linear: int, constant: int, *, sigma: float) -> list[int]:
    """Return exp(-(square m**2 + linear m + constant) / (2 sigma**2)) for m < count, in units of 2**-320.

    One weight is the one before times a step, and each step the one before times a constant. All of them
    are at most 1, and a product loses less than a unit, so that step m is off by at most 2 m + 1 units and
    weight m by (m + 1)**2: at 2**15 weights 2**30 units, 2**-290.
    """
    with localcontext() as context:
        context.prec = DIGITS
        scale, divisor = Decimal(1 << _WEIGHT_BITS), 2 * Decimal(sigma) ** 2
        weight, step, ratio = (
            int((-Decimal(numerator) / divisor).exp() * scale)
            for numerator in (constant, square + linear, 2 * square)
        )
    out = []
    for _ in range(count):
        out.append(weight)
        weight, step = weight * step >> _WEIGHT_BITS, step * ratio >> _WEIGHT_BITS
    return out


def _sure(half: int, shift: int, *, sigma: float) -> NDArray[np.uint16]:
    """Return, of each cell, its least density over its largest in units of 2**-16, one lower than that."""
    nearest = np.arange(half, dtype=np.int64) << shift
    span = np.int64((1 << shift) - 1)
    sides = []
    for near in (nearest[::-1] + 1, nearest):
        # The difference of two squares, exact below 2**63.
        exponent = -(span * (2 * near + span)).astype(np.float64) / (2.0 * sigma**2)
        sides.append(np.maximum(np.floor(np.exp(exponent) * (1 << PREFIX_BITS)) - 1, 0))
    return np.concatenate(sides).astype(np.uint16)
