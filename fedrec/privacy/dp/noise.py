"""Sample discrete Gaussians: the noise of a sum, and the keys and errors of lattice encryption.

The distribution is that of Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential
Privacy": P(y) is proportional to exp(-y^2 / (2 sigma^2)) on the integers. Sampling is by inversion: a uniform
number is compared with the cumulative table of :mod:`gaussian_table`, and only as many of its bits are read
as the comparison needs. The first 16 bits decide most draws, 48 bits nearly all, 240 bits the rest (Knuth and
Yao 1976 read bit by bit). Up to sigma 1024 the table has an entry for every integer. Above, an entry is for a
cell of 2**shift integers. One of them is drawn uniformly and accepted with probability density / largest
density of the cell, which is at least 99.7% on average. This is rejection sampling as in Marsaglia and Tsang
2000 ("The Ziggurat Method"), with the table as the envelope.

The sampler doesn't run in constant time: the table entries that are read and the number of draws that need
more bits depend on the values. Attackers that measure the caches of the merchant's machine are outside the
threat model.
"""

from __future__ import annotations

from bisect import bisect_right
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.privacy.dp.gaussian_table import (
    DIGITS,
    EXACT_BITS,
    PREFIX_BITS,
    UNDECIDED,
    WORD_BITS,
    GaussianTable,
    gaussian_table,
)
from fedrec.privacy.randomness import Randomness

MAX_SIGMA = 2.0**30
"""Largest sigma, in grid units: up to it the squares in an acceptance test stay below 2**63."""
_MIN_SIGMA = 0.01
_CHUNK = 1 << 16
_REST_BITS = EXACT_BITS - WORD_BITS
_EXACT_WITHIN = 2.0**-44
"""Exact numbers decide on acceptance if the uniform number is this close to the acceptance probability."""


def discrete_gaussian(n: int, *, sigma: float, rng: Randomness) -> NDArray[np.int64]:
    """Draw independent discrete Gaussians.

    The distribution of a draw is within 2**-200 of the target in total variation:

    - the table ends at 17 sigma, beyond which the target has mass below 2**-208;
    - each of the fewer than 2**16 cumulative probabilities is exact to 2**-239, and a comparison uses all 240
      bits of both sides unless fewer bits decide it;
    - in cells of several integers, 48 bits are compared with a float64 whose error is below 2**-50; if the
      two are closer than 2**-44, they are compared with a number of 110 digits, and 240 bits are if 48 don't
      decide.

    The same stream gives the same draws on every machine: floating-point numbers decide only what no
    rounding of theirs could change, and never how much of the stream is read.

    So d coordinates of T steps add at most (1 + exp(epsilon)) d T 2**-200 to delta. Up to epsilon 64 and
    d = 2**27 this is far less than the 1e-14 per step that the accountants subtract from delta.

    Args:
        n: number of draws.
        sigma: the parameter, in grid units, from 0.01 to 2**30.
        rng: randomness; how much of it is read depends on the values.

    Returns:
        int64 (n,), in grid units.

    Raises:
        ConfigError: ``n`` is negative or ``sigma`` is out of range. This includes 0: a step without privacy
            must not ask for noise.
    """
    if n < 0:
        raise ConfigError(f"discrete_gaussian: the number of draws must not be negative, but is {n}.")
    if not _MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise ConfigError(f"discrete_gaussian: sigma {sigma} is outside [{_MIN_SIGMA}, 2**30] grid units.")
    table = gaussian_table(float(sigma))
    out = np.empty(n, dtype=np.int64)
    filled = 0
    while filled < n:
        # A chunk fits into the processor's cache.
        cells = _cells(min(_CHUNK, n - filled), table, rng)
        draws = _accepted(cells, table, sigma=sigma, rng=rng) if table.shift else cells
        out[filled : filled + draws.size] = draws
        filled += draws.size
    return out


def _cells(count: int, table: GaussianTable, rng: Randomness) -> NDArray[np.int16]:
    """Draw cells with their probabilities, int16 (count,)."""
    prefixes = rng.uint16(count)
    # Every prefix is a valid index of the table; mode="wrap" skips numpy's check of this.
    cells = table.decided.take(prefixes, mode="wrap")
    undecided = np.flatnonzero(cells == UNDECIDED)
    if undecided.size:
        low_bits = np.uint64(WORD_BITS - PREFIX_BITS)
        words = (prefixes[undecided].astype(np.uint64) << low_bits) | rng.uint32(undecided.size)
        cells[undecided] = _refine(words, table.first[prefixes[undecided]], table, rng)
    return cells


def _refine(
    words: NDArray[np.uint64], first: NDArray[np.int32], table: GaussianTable, rng: Randomness
) -> NDArray[np.int16]:
    """Return the cells of uniform numbers of 48 bits, (n,) each.

    ``first`` is the number of cumulative probabilities below the first word of each number's prefix.
    """
    # Most of these prefixes contain one cumulative probability.
    index = first + (words >= table.words[first])
    further = np.flatnonzero(words >= table.words[index])
    index[further] = np.searchsorted(table.words, words[further], side="right")
    for i in np.flatnonzero((index > 0) & (table.words[index - 1] == words)):
        index[i] = _exact_index(int(words[i]), table, rng)
    return (index - np.int32(table.half)).astype(np.int16)


def _exact_index(word: int, table: GaussianTable, rng: Randomness) -> int:
    """Draw the other 192 bits of a uniform number, and count the cumulative probabilities up to it."""
    return bisect_right(table.exact, (word << _REST_BITS) | _rest(rng))


def _rest(rng: Randomness) -> int:
    """Draw the bits of a uniform number that follow its first 48."""
    return int.from_bytes(rng.bytes(_REST_BITS // 8), "little")


def _accepted(
    cells: NDArray[np.int16], table: GaussianTable, *, sigma: float, rng: Randomness
) -> NDArray[np.int64]:
    """Draw an integer of each cell, and return those that are accepted, in order."""
    shift = table.shift
    values = np.left_shift(cells, shift, dtype=np.int64)
    offsets = rng.uint32(cells.size)
    np.bitwise_and(offsets, np.uint32((1 << shift) - 1), out=offsets)
    np.add(values, offsets, out=values)
    prefixes = rng.uint16(cells.size)
    undecided = np.flatnonzero(prefixes >= table.accepted_below.take(cells.view(np.uint16), mode="wrap"))
    low_bits = np.uint64(WORD_BITS - PREFIX_BITS)
    words = (prefixes[undecided].astype(np.uint64) << low_bits) | rng.uint32(undecided.size)
    magnitudes = np.abs(values[undecided])
    # The distance to zero of a cell's nearest integer: its first one, or its last one in a negative cell.
    sides = cells[undecided].astype(np.int64)
    nearest = np.where(sides < 0, ((-1 - sides) << shift) + 1, sides << shift)
    squares = (magnitudes - nearest) * (magnitudes + nearest)
    bounds = np.exp(-squares.astype(np.float64) / (2.0 * sigma**2))
    uniforms = (words.astype(np.float64) + 0.5) * 2.0**-WORD_BITS
    accepted = uniforms < bounds
    for i in np.flatnonzero(np.abs(uniforms - bounds) <= _EXACT_WITHIN):
        accepted[i] = _is_accepted(int(words[i]), squares=int(squares[i]), sigma=sigma, rng=rng)
    return np.delete(values, undecided[~accepted])


def _is_accepted(word: int, *, squares: int, sigma: float, rng: Randomness) -> bool:
    """Return whether a uniform number is below exp(-squares / (2 sigma**2)).

    Its other 192 bits are drawn only if its first 48 equal those of the probability.

    Args:
        word: the first 48 bits of the uniform number.
        squares: the difference of two squares, at least 0.
        sigma: the parameter, in grid units.
        rng: randomness.

    Returns:
        Whether the candidate is accepted.
    """
    with localcontext() as context:
        context.prec = DIGITS
        bound = (-Decimal(squares) / (2 * Decimal(sigma) ** 2)).exp()
        decided = int(bound * (1 << WORD_BITS))
        if word != decided:
            return word < decided
        return Decimal((word << _REST_BITS) | _rest(rng)) / Decimal(1 << EXACT_BITS) < bound
