"""Discrete Gaussians, for noise and for lattice keys and errors, from the one source of chance.

The law is that of Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy":
P(y) proportional to exp(-y^2 / (2 sigma^2)) on the integers. A uniform number is held against the cumulative
table of :mod:`gaussian_table` and read no further than needed: its first 16 bits decide most draws, 48 nearly
all, 240 the rest (Knuth and Yao 1976 read bit by bit). Up to sigma 1024 the table has an entry for every
integer. Beyond, an entry stands for a cell of 2**shift integers, of which one is drawn uniformly and kept
with its density over the cell's largest, at least 99.7% of the time; this is rejection as in Marsaglia and
Tsang 2000 ("The Ziggurat Method"), with the table as its envelope.

None of this takes constant time: which entries are read, and how many draws need more bits, depend on the
values. Whoever measures the caches of the merchant's machine is outside what this protects from.
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
"""Largest standard deviation drawn, in grid units: the squares in an acceptance test stay below 2**63."""
_MIN_SIGMA = 0.01
_CHUNK = 1 << 16
_REST_BITS = EXACT_BITS - WORD_BITS
_NEAR = 2.0**-47
"""Acceptance is decided exactly where uniform and probability are nearer than this."""


def discrete_gaussian(n: int, *, sigma: float, rng: Randomness) -> NDArray[np.int64]:
    """Draw ``n`` independent discrete Gaussians of parameter ``sigma`` (grid units), int64 of shape (n,).

    A draw's law is within 2**-200 of the target in total variation. The table ends at 17 sigma, beyond
    which the target has mass below 2**-208; a cumulative probability is right to 2**-239, and there are below
    2**16 of them; a comparison uses all 240 bits of both sides wherever fewer leave it open. In wide cells an
    acceptance is a comparison of 48 bits with a float64 that is off by less than 2**-50, and where they are
    nearer than 2**-47 of 240 bits with 110 digits. So d coordinates of T steps add at most
    (1 + exp(epsilon)) d T 2**-200 to delta: up to epsilon 64 and d = 2**27 far less than the 1e-14 a step
    that accounting takes off.

    Raises:
        ConfigError: ``n`` is negative, or ``sigma`` is not between 0.01 and 2**30. A step
            without privacy must not ask for noise, so 0 is an error.

    """
    if n < 0:
        raise ConfigError(f"discrete_gaussian: the number of draws must not be negative, but is {n}.")
    if not _MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise ConfigError(f"discrete_gaussian: sigma {sigma} is outside [{_MIN_SIGMA}, 2**30] grid units.")
    table = gaussian_table(float(sigma))
    out = np.empty(n, dtype=np.int64)
    filled = 0
    while filled < n:
        # Chunks stay in the processor's cache.
        cells = _cells(min(_CHUNK, n - filled), table, rng)
        draws = _accepted(cells, table, sigma=sigma, rng=rng) if table.shift else cells
        out[filled : filled + draws.size] = draws
        filled += draws.size
    return out


def _cells(count: int, table: GaussianTable, rng: Randomness) -> NDArray[np.int32]:
    """Draw cells by their weights; (count,) int32."""
    prefixes = rng.uint16(count)
    # Every prefix is an index of the table; "wrap" leaves out the check that it is.
    cells = table.decided.take(prefixes, mode="wrap")
    open_ = np.flatnonzero(cells == UNDECIDED)
    if open_.size:
        low_bits = np.uint64(WORD_BITS - PREFIX_BITS)
        words = (prefixes[open_].astype(np.uint64) << low_bits) | rng.uint32(open_.size)
        cells[open_] = _refine(words, table.first[prefixes[open_]], table, rng)
    return cells


def _refine(
    words: NDArray[np.uint64], first: NDArray[np.int32], table: GaussianTable, rng: Randomness
) -> NDArray[np.int32]:
    """Return the cells of uniforms known to 48 bits, whose prefixes have ``first`` cuts before them."""
    # Most prefixes hold one cut.
    place = first + (words >= table.words[first])
    further = np.flatnonzero(words >= table.words[place])
    place[further] = np.searchsorted(table.words, words[further], side="right")
    for i in np.flatnonzero((place > 0) & (table.words[place - 1] == words)):
        place[i] = _exact_place(int(words[i]), table, rng)
    cells: NDArray[np.int32] = place - np.int32(table.half)
    return cells


def _exact_place(word: int, table: GaussianTable, rng: Randomness) -> int:
    """Return how many cuts are at or below a uniform that begins with these 48 bits, by 192 more."""
    return bisect_right(table.exact, (word << _REST_BITS) | _rest(rng))


def _rest(rng: Randomness) -> int:
    return int.from_bytes(rng.bytes(_REST_BITS // 8), "little")


def _accepted(
    cells: NDArray[np.int32], table: GaussianTable, *, sigma: float, rng: Randomness
) -> NDArray[np.int64]:
    """Draw an integer of each cell and return those kept, in order."""
    shift = table.shift
    offsets = rng.uint32(cells.size) & np.uint32((1 << shift) - 1)
    values = (cells.astype(np.int64) << shift) + offsets
    prefixes = rng.uint16(cells.size)
    doubtful = np.flatnonzero(prefixes >= table.sure[cells + np.int32(table.half)])
    low_bits = np.uint64(WORD_BITS - PREFIX_BITS)
    words = (prefixes[doubtful].astype(np.uint64) << low_bits) | rng.uint32(doubtful.size)
    magnitudes = np.abs(values[doubtful])
    # What the nearest point of a cell has to zero: its first integer, or its last where that is negative.
    sides = cells[doubtful].astype(np.int64)
    nearest = np.where(sides < 0, ((-1 - sides) << shift) + 1, sides << shift)
    squares = (magnitudes - nearest) * (magnitudes + nearest)
    bounds = np.exp(-squares.astype(np.float64) / (2.0 * sigma**2))
    uniforms = (words.astype(np.float64) + 0.5) * 2.0**-WORD_BITS
    keep = np.ones(cells.size, dtype=np.bool_)
    keep[doubtful] = uniforms < bounds
    for i in np.flatnonzero(np.abs(uniforms - bounds) <= _NEAR):
        keep[doubtful[i]] = _decide(int(words[i]), squares=int(squares[i]), sigma=sigma, rng=rng)
    return values[keep]


def _decide(word: int, *, squares: int, sigma: float, rng: Randomness) -> bool:
    """Tell whether a uniform that begins with these 48 bits is below exp(-squares / (2 sigma**2))."""
    with localcontext() as context:
        context.prec = DIGITS
        uniform = Decimal((word << _REST_BITS) | _rest(rng)) / Decimal(1 << EXACT_BITS)
        return uniform < (-Decimal(squares) / (2 * Decimal(sigma) ** 2)).exp()
