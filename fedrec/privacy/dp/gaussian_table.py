"""Build the discrete Gaussian's table of cumulative probabilities, to 240, 48 and 16 bits.

All of it follows from integers and correctly rounded decimals, so that it is the same on every machine.

The integers are divided into cells of 2**shift; cell j holds those from j * 2**shift to
(j + 1) * 2**shift - 1. A cell's weight is the density at its integer nearest to zero, which is the largest
density in the cell. With shift = 0 a cell is one integer, and its weight is that integer's density.
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
"""Decimal digits with which exponentials are computed: 365 bits."""

UNDECIDED = np.iinfo(np.int16).min
"""Marks the prefixes in :attr:`GaussianTable.decided` that don't determine the cell."""

_TAIL_SIGMAS = 17
"""The table ends at 17 sigma: beyond, the distribution has mass below erfc(17 / sqrt(2)) < 2**-208."""

_MAX_SIGMA_CELLS = 1024
"""Largest sigma in cells: a table has at most 36 times as many entries, and is built in about 50 ms.

So a cell's number fits 16 bits, and what prefixes determine fits into a small cache."""

_WEIGHT_BITS = 320
_KEPT = 40
"""Tables that are cached, of at most 3 MB each: a merchant's noise may be drawn in as many layers."""


@dataclass(frozen=True)
class GaussianTable:
    """The table of one sigma. Cells are numbered from ``-half`` to ``half - 1``; all arrays are read-only.

    Attributes:
        shift: a cell has 2**shift integers.
        half: number of cells on each side of zero.
        exact: 2 * half cumulative probabilities in units of 2**-240, rounded down; the last is 2**240. A
            uniform integer u below 2**240 selects the cell whose index is the number of entries up to u.
        words: uint64 (2 * half,), the first 48 bits of ``exact``.
        first: int32 (65536,), for each 16-bit prefix the number of ``words`` below the prefix's first word.
        decided: int16 (65536,), the cell that a prefix determines, or ``UNDECIDED``.
        accepted_below: uint16 (65536,) by the cell's number modulo 2**16; a 16-bit uniform number below it
            accepts every integer of the cell.
    """

    shift: int
    half: int
    exact: tuple[int, ...]
    words: NDArray[np.uint64]
    first: NDArray[np.int32]
    decided: NDArray[np.int16]
    accepted_below: NDArray[np.uint16]


@lru_cache(maxsize=_KEPT)
def gaussian_table(sigma: float) -> GaussianTable:
    """Build the table of cumulative probabilities.

    A cell's probability is exact to 2**-239: weights have errors below 2**-289 (see :func:`_weights`), their
    sum is at least 1, and rounding a cumulative probability down changes it by less than 2**-240.

    Args:
        sigma: the parameter, in grid units, from 0.01 to 2**30.

    Returns:
        The table; those that were used last are cached.
    """
    mantissa, exponent = math.frexp(sigma / _MAX_SIGMA_CELLS)
    shift = max(0, exponent if mantissa > 0.5 else exponent - 1)
    half = math.ceil(_TAIL_SIGMAS * sigma / (1 << shift)) + 1
    width = 1 << shift
    # The integer nearest to zero is m * width in cell m, and -(m * width + 1) in cell -1 - m.
    above = _weights(half, width**2, 0, 0, sigma=sigma)
    below = _weights(half, width**2, 2 * width, 1, sigma=sigma)
    cumulative = list(accumulate(below[::-1] + above))
    exact = tuple((value << EXACT_BITS) // cumulative[-1] for value in cumulative)
    # The last entry is 2**48, above every word.
    words = np.array([value >> (EXACT_BITS - WORD_BITS) for value in exact], dtype=np.uint64)
    prefixes = np.arange((1 << PREFIX_BITS) + 1, dtype=np.uint64) << np.uint64(WORD_BITS - PREFIX_BITS)
    # A cumulative probability whose 48 bits equal a prefix's first word lies in that prefix or at its start:
    # the prefix stays undecided.
    counts = np.searchsorted(words, prefixes, side="left").astype(np.int32)
    first, following = counts[:-1], counts[1:]
    decided = np.where(first == following, first - np.int32(half), np.int32(UNDECIDED)).astype(np.int16)
    table = GaussianTable(
        shift=shift,
        half=half,
        exact=exact,
        words=words,
        first=first,
        decided=decided,
        accepted_below=_accepted_below(half, shift, sigma=sigma),
    )
    for array in (table.words, table.first, table.decided, table.accepted_below):
        array.flags.writeable = False
    return table


def _weights(count: int, square: int, linear: int, constant: int, *, sigma: float) -> list[int]:
    """Compute exp(-(square m**2 + linear m + constant) / (2 sigma**2)) for m < count.

    Weight m + 1 is weight m times step m, and step m + 1 is step m times a constant. All of them are at most
    1, and rounding a product down loses less than one unit. So the error of step m is at most 2 m + 1 units
    and that of weight m at most (m + 1)**2 units: 2**30 units, or 2**-290, for 2**15 weights.

    Args:
        count: number of weights.
        square: coefficient of m**2.
        linear: coefficient of m.
        constant: constant coefficient.
        sigma: the parameter, in grid units.

    Returns:
        The weights in units of 2**-320, rounded down.
    """
    weight, step, ratio = (
        _exponential(numerator, sigma=sigma) for numerator in (constant, square + linear, 2 * square)
    )
    out = []
    for _ in range(count):
        out.append(weight)
        weight, step = weight * step >> _WEIGHT_BITS, step * ratio >> _WEIGHT_BITS
    return out


def _exponential(numerator: int, *, sigma: float) -> int:
    """Return exp(-numerator / (2 sigma**2)) in units of 2**-320, rounded down."""
    with localcontext() as context:
        context.prec = DIGITS
        return int((-Decimal(numerator) / (2 * Decimal(sigma) ** 2)).exp() * Decimal(1 << _WEIGHT_BITS))


def _accepted_below(half: int, shift: int, *, sigma: float) -> NDArray[np.uint16]:
    """Return the ratio of each cell's smallest to its largest density in units of 2**-16, less one unit.

    Cells are at their number modulo 2**16, where a lookup by it needs no arithmetic.
    """
    span = (1 << shift) - 1
    # With the nearest integer at distance m * width, or one more in a negative cell, the difference of the
    # squares is span * (2 * distance + span), linear in m.
    sides = [_weights(half, 0, span * 2 << shift, span * (2 * first + span), sigma=sigma) for first in (1, 0)]
    units = [max((weight >> (_WEIGHT_BITS - PREFIX_BITS)) - 1, 0) for weight in sides[0][::-1] + sides[1]]
    by_number = np.zeros(1 << PREFIX_BITS, dtype=np.uint16)
    by_number[np.arange(-half, half)] = units
    return by_number
