"""Round a sum to the integer grid stochastically, and bound the sensitivity of the rounded sum.

With one fresh dither u per coordinate, ``floor(x + g + u) - floor(x + u)`` has the distribution of
``floor(g + v)`` with v uniform on (0, 1), for every x: a record with scaled gradient g changes a merchant's
rounded sum as if g were rounded by itself. The norm of this change is bounded as in Kairouz, Liu and Steinke
2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation", section 4
(conditional randomised rounding).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.privacy.randomness import Randomness

MAX_INFLATION = 1.025
"""Default of :func:`choose_scale`: largest ratio of the sensitivity after rounding to the scale S."""
_MAX_EXACT = 2.0**52
_LATTICE_BITS, _PREFIX_BITS = 40, 16
_REST_BITS = _LATTICE_BITS - _PREFIX_BITS
_ALL_ONES, _REST_MASK = np.uint16((1 << _PREFIX_BITS) - 1), np.int64((1 << _REST_BITS) - 1)
_MAX_SMALL = 2.0**22
_MAX_SCALE_BITS = 40


def stochastic_round(x: NDArray[np.float64], rng: Randomness) -> NDArray[np.int64]:
    """Round each coordinate x to ``floor(x + u)`` with u uniform on (0, 1), drawn for each coordinate.

    ``x`` is first rounded to multiples of 2**-40, which changes it by at most sqrt(d) * 2**-41 in L2 norm. On
    this lattice the probability of rounding up must equal the fraction f = F / 2**40 exactly. It does, since
    a coordinate is rounded up if F + K >= 2**40 with K uniform on the integers from 0 to 2**40 - 1. The
    distribution stated in the module's docstring therefore holds exactly.

    The first 16 bits of K are added to those of F. The other 24 bits of both can change the result only by a
    carry, and only where the sum of the first bits ends in 16 ones. They are drawn there, once in 2**16.

    Args:
        x: float64 (d,), in grid units.
        rng: randomness; how much of it is read depends on the values.

    Returns:
        int64 (d,), in grid units.

    Raises:
        ConfigError: ``x`` has another shape or dtype, or a value that is not finite or beyond 2**52.
    """
    if x.ndim != 1 or x.dtype != np.float64:
        raise ConfigError(f"stochastic_round: expects float64 (d,), not {x.dtype} {x.shape}.")
    largest = max(-float(x.min()), float(x.max())) if x.size else 0.0
    if not largest <= _MAX_EXACT:
        raise ConfigError("stochastic_round: a value is not finite or beyond 2**52; clamp before rounding.")
    if largest <= _MAX_SMALL:
        return _round_lattice(x, rng)
    low = np.floor(x)
    # x - floor(x) is exact below 2**52, where x + u would be rounded to the spacing of x.
    rounded = _round_lattice(x - low, rng)
    rounded += low.astype(np.int64)
    return rounded


def _round_lattice(x: NDArray[np.float64], rng: Randomness) -> NDArray[np.int64]:
    """Do what :func:`stochastic_round` does with numbers of at most 2**22, as multiples of 2**-40.

    They fit int64. Scaling by a power of two is exact, and so is splitting a multiple at its 40 low bits:
    this gives the same integer and the same F as the fraction of x by itself.

    Args:
        x: float64 (d,).
        rng: randomness.

    Returns:
        int64 (d,).
    """
    scaled = x * 2.0**_LATTICE_BITS
    multiples = np.rint(scaled, out=scaled).astype(np.int64)
    sums = multiples >> _REST_BITS
    sums += rng.uint16(x.size)
    undecided = np.flatnonzero(sums.astype(np.uint16) == _ALL_ONES)  # of the low 16 bits
    rest = rng.uint32(undecided.size) & _REST_MASK
    sums[undecided] += ((multiples[undecided] & _REST_MASK) + rest) >> _REST_BITS
    sums >>= _PREFIX_BITS
    return sums


def sensitivity(*, scale: int, dimension: int, beta: float, float_slack: float) -> float:
    """Bound the L2 norm of one record's change of a rounded sum: Delta, in grid units.

    A record's gradient has norm at most ``scale * (1 + float_slack)`` before rounding. The bound is
    ``(1 + float_slack) * sqrt(S^2 + d/4 + sqrt(2 ln(1/beta)) * (S + sqrt(d)/2))`` (Kairouz, Liu and Steinke
    2021, section 4). It is exceeded with probability at most ``beta`` per step; callers add this to delta.

    Args:
        scale: S, grid units per clipping norm C.
        dimension: d, number of coordinates.
        beta: probability per step that the bound is exceeded, in (0, 1).
        float_slack: relative excess of a clipped gradient over C by floating point, in [0, 1).

    Returns:
        Delta, in grid units.

    Raises:
        ConfigError: an argument is out of range.
    """
    if scale < 1 or dimension < 1:
        raise ConfigError(f"sensitivity: scale {scale} and dimension {dimension} must both be at least 1.")
    if not 0.0 < beta < 1.0:
        raise ConfigError(f"sensitivity: beta {beta} is outside (0, 1).")
    if not 0.0 <= float_slack < 1.0:
        raise ConfigError(f"sensitivity: float_slack {float_slack} is outside [0, 1).")
    deviation = math.sqrt(2.0 * math.log(1.0 / beta)) * (scale + math.sqrt(dimension) / 2.0)
    return (1.0 + float_slack) * math.sqrt(scale**2 + dimension / 4.0 + deviation)


def choose_scale(
    *, dimension: int, beta: float, float_slack: float, max_inflation: float = MAX_INFLATION
) -> int:
    """Find the coarsest grid on which rounding increases the sensitivity by at most ``max_inflation``.

    Args:
        dimension: d, number of coordinates.
        beta: probability per step that the sensitivity is exceeded, in (0, 1).
        float_slack: relative excess of a clipped gradient over C by floating point, in [0, 1).
        max_inflation: largest ratio of the sensitivity Delta to S.

    Returns:
        S, grid units per clipping norm C: the smallest power of two with Delta / S <= ``max_inflation``.

    Raises:
        ConfigError: an argument is out of range, or no S up to 2**40 is fine enough.
    """
    for bits in range(_MAX_SCALE_BITS + 1):
        scale = 1 << bits
        bound = sensitivity(scale=scale, dimension=dimension, beta=beta, float_slack=float_slack)
        if bound <= max_inflation * scale:
            return scale
    raise ConfigError(
        f"choose_scale: no grid keeps the sensitivity within {max_inflation} of the clipping bound for "
        f"{dimension} parameters; allow more inflation."
    )
