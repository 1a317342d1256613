"""Discrete Gaussian noise from the one source of chance.

The law is that of Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy":
P(y) proportional to exp(-y^2 / (2 sigma^2)) on the integers. As in their Algorithm 3 a candidate from
a heavier-tailed law is kept or thrown away; here the candidate comes from a dyadic staircase, P(y)
proportional to 2^-floor(|y| / t) with t a power of two, in place of the discrete Laplace law, because
its steps are read exactly off the bits of one keystream word.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.privacy.randomness import Randomness

MAX_SIGMA = 2.0**30
"""Largest standard deviation drawn, in grid units; beyond it a word has too few bits for the staircase."""
_CHUNK = 1 << 16
_MIN_SIGMA = 0.01
_UNDECIDED = 2.0**-50
_CEILING_MARGIN = 2.0**-40
_DIGITS = 60
_REST_BITS = 192


def discrete_gaussian(n: int, *, sigma: float, rng: Randomness) -> NDArray[np.int64]:
    """Draw ``n`` independent discrete Gaussians of parameter ``sigma`` (grid units), int64 of shape (n,).

    The candidates' law is exact (it ends at |y| of about 25 sigma or more, beyond which the target
    has mass below 2**-400). So is the acceptance test, up to 2**-170: a uniform's first 52 bits are held
    against a float64 exponential, which is off by at most 2**-50 (relatively by (4 + 2a) * 2**-53, a the
    exponent's size, and a * exp(-a) stays below 1); where the two are nearer than that, the uniform gets 192
    more bits and the exponential 60 digits. At an acceptance of 0.39 or more a draw's law is within 2**-168
    of the target in total variation, and d coordinates of T steps add at most (1 + exp(epsilon)) d T 2**-168
    to delta: up to epsilon 64 and d = 2**27 less than the 1e-14 a step that accounting takes off.

    Raises:
        ConfigError: ``n`` is negative, or ``sigma`` is not between 0.01 and 2**30. A step
            without privacy must not ask for noise, so 0 is an error.

    """
    if n < 0:
        raise ConfigError(f"discrete_gaussian: the number of draws must not be negative, but is {n}.")
    if not _MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise ConfigError(f"discrete_gaussian: sigma {sigma} is outside [{_MIN_SIGMA}, 2**30] grid units.")
    # Of the powers of two near 1.1 sigma: acceptance is then between 0.39 and 0.53 (less below sigma 1).
    step_bits = max(0, round(math.log2(1.1 * sigma)))
    log_ceiling = max(v * math.log(2.0) - (v << step_bits) ** 2 / (2 * sigma**2) for v in range(4))
    # Any constant gives the same law as long as no probability passes 1: rounding must not bring one there.
    log_ceiling += _CEILING_MARGIN
    out = np.empty(n, dtype=np.int64)
    filled = 0
    while filled < n:
        # Chunks stay in the processor's cache, which halves the time at d = 422k.
        count = min(_CHUNK, int(2.8 * (n - filled)) + 64)
        kept = _accepted(count, sigma=sigma, step_bits=step_bits, log_ceiling=log_ceiling, rng=rng)
        take = min(kept.size, n - filled)
        out[filled : filled + take] = kept[:take]
        filled += take
    return out


def _accepted(
    count: int, *, sigma: float, step_bits: int, log_ceiling: float, rng: Randomness
) -> NDArray[np.int64]:
    """Make ``count`` staircase candidates and return those accepted."""
    words = rng.uint64(count)
    negative = (words & np.uint64(1)).view(np.int64)
    words = words >> np.uint64(1)
    offset = (words & np.uint64((1 << step_bits) - 1)).astype(np.int64)
    # The number of trailing zeros of fair bits is geometric with ratio 1/2; the guard ends an all-zero word.
    coins = (words >> np.uint64(step_bits)) | np.uint64(1 << (63 - step_bits))
    stair = np.bitwise_count(~coins & (coins - np.uint64(1))).astype(np.int64)
    magnitude = offset + (stair << step_bits)
    exponent = stair * math.log(2.0) - magnitude.astype(np.float64) ** 2 / (2.0 * sigma**2) - log_ceiling
    uniforms, bounds = rng.uniform(count), np.exp(exponent)
    keep = uniforms < bounds
    for i in np.flatnonzero(np.abs(uniforms - bounds) <= _UNDECIDED):
        keep[i] = _decide(
            float(uniforms[i]),
            stair=int(stair[i]),
            magnitude=int(magnitude[i]),
            sigma=sigma,
            log_ceiling=log_ceiling,
            rng=rng,
        )
    # Zero would otherwise be reached by both signs.
    keep &= (negative == 0) | (magnitude != 0)
    kept = np.flatnonzero(keep)
    sign = -negative[kept]
    signed: NDArray[np.int64] = (magnitude[kept] ^ sign) - sign
    return signed


def _decide(
    uniform: float, *, stair: int, magnitude: int, sigma: float, log_ceiling: float, rng: Randomness
) -> bool:
    """Compare a uniform, known to 52 bits, with its candidate's probability: more of both."""
    with localcontext() as context:
        context.prec = _DIGITS
        exponent = (
            stair * Decimal(2).ln()
            - Decimal(magnitude) ** 2 / (2 * Decimal(sigma) ** 2)
            - Decimal(log_ceiling)
        )
        # The uniform is a midpoint of the grid of 2**-52: it stands for the cell around it.
        low = Decimal(uniform) - Decimal(2) ** -53
        rest = Decimal(int.from_bytes(rng.bytes(_REST_BITS // 8), "little")) / Decimal(2) ** _REST_BITS
        return low + rest * Decimal(2) ** -52 < exponent.exp()
