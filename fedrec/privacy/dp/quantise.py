"""Stochastic rounding to the integer grid, and how far it lets one record move the rounded sum.

With one fresh dither u per coordinate, ``floor(x + g + u) - floor(x + u)`` has the law of
``floor(g + v)`` with v uniform, whatever x is: a record with scaled gradient g moves the rounded sum
of a merchant as if g had been rounded alone. Its norm is then bounded as in Kairouz, Liu and Steinke
2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation",
section 4 (conditional randomised rounding).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.privacy.randomness import Randomness

MAX_INFLATION = 1.025
"""Largest ratio of the sensitivity after rounding to the scale that :func:`choose_scale` accepts."""
_MAX_EXACT = 2.0**52
_LATTICE = 2.0**40
_MAX_SCALE_BITS = 40


def stochastic_round(x: NDArray[np.float64], rng: Randomness) -> NDArray[np.int64]:
    """Round each coordinate of ``x`` (float64, shape (d,)) to ``floor(x + u)``, u uniform on (0, 1).

    Returns int64 of shape (d,). ``x`` is first brought to multiples of 2**-40, which moves it by sqrt(d) *
    2**-41 at most; on that lattice the probability of rounding up is the fraction exactly, since u is
    uniform on the midpoints of 2**-52, and the law of a difference is the one stated above, exactly.

    Raises:
        ConfigError: ``x`` has another shape or dtype, or holds a value that is not finite or beyond 2**52.

    """
    if x.ndim != 1 or x.dtype != np.float64:
        raise ConfigError(f"stochastic_round: expects float64 (d,), not {x.dtype} {x.shape}.")
    if x.size and not np.max(np.abs(x)) <= _MAX_EXACT:
        raise ConfigError("stochastic_round: a value is not finite or beyond 2**52; clamp before rounding.")
    on_lattice = np.rint(x * _LATTICE) / _LATTICE
    low = np.floor(on_lattice)
    # x - floor(x) is exact below 2**52, where x + u would be rounded to the spacing of x.
    up = rng.uniform(x.size) > 1.0 - (on_lattice - low)
    rounded: NDArray[np.int64] = low.astype(np.int64) + up
    return rounded


def sensitivity(*, scale: int, dimension: int, beta: float, float_slack: float) -> float:
    """Bound the L2 norm, in grid units, by which one record moves a rounded sum of ``dimension`` coordinates.

    A record's gradient has norm at most ``scale`` * (1 + ``float_slack``) before rounding; the bound
    ``(1 + float_slack) * sqrt(S^2 + d/4 + sqrt(2 ln(1/beta)) * (S + sqrt(d)/2))`` fails with
    probability at most ``beta`` per step, which the caller adds to delta.

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
    """Find the smallest power of two S (grid units per C) with sensitivity / S <= ``max_inflation``.

    Raises:
        ConfigError: an argument is out of range, or no scale up to 2**40 is fine enough.

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
