"""From sums of discrete Gaussians to one continuous Gaussian: what makes the accountants' figures proved.

A record moves the opened sum by an integer vector of norm at most Delta, under the sum of the honest
merchants' discrete Gaussians. Let V be that sum's variance parameter. With eta = 3 the sum has, up to factors
within exp(+-(a1 + a2)) a coordinate, the law of a continuous Gaussian of variance V - eta^2 that is then
rounded at random, whatever the record did: so the subsampled Gaussian mechanism of noise multiplier sqrt(V -
9) / Delta bounds every step. ``docs/accounting.md`` has statement, proof and sources.
"""

from __future__ import annotations

import math

from fedrec.errors import ConfigError

SMOOTHING = 3.0
"""eta, in grid units: what of the noise's width the random rounding takes."""
LEAST_SHARE = 8.0
"""Least discrete Gaussian of one merchant, in grid units: sums of narrower ones stray from a Gaussian."""
MAX_DIMENSION = 1 << 27
MAX_STEPS = 1 << 20
"""Sizes up to which the lemma's factor stays below 2**-200 over a whole training (:func:`log_factor`)."""
RATE_GRID = 2.0**-52
"""Grid of the uniform that is a record's coin: it may fall below the rate so much too often."""
_TERMS = 8


def check_range(*, dimension: int, steps: int) -> None:
    """Raise ``ConfigError`` where a training is so large that the lemma's factors were not bounded."""
    if dimension > MAX_DIMENSION or steps > MAX_STEPS:
        raise ConfigError(
            f"privacy: {dimension} parameters over {steps} noised steps are beyond the {MAX_DIMENSION} and "
            f"{MAX_STEPS} that the guarantee is proved for; choose a smaller model, or fewer rounds."
        )


def accounted_rate(sample_rate: float) -> float:
    """Return the sampling rate to account for: that of the plan and the grid of the coins, 1 at most."""
    return min(1.0, sample_rate + RATE_GRID)


def accounted_multiplier(variance: float, *, sensitivity: float) -> float:
    """Return the noise multiplier that discrete noise of a variance guarantees: sqrt(V - 9) / Delta.

    ``variance`` is the sum of the honest shares' parameters sigma^2 in grid units squared, each of at least
    :data:`LEAST_SHARE`; 0 stands for no noise, and gives 0.

    Raises:
        ConfigError: there is noise, but less than one least share.

    """
    if variance == 0.0:
        return 0.0
    if variance < LEAST_SHARE**2 * (1 - 1e-12):
        raise ConfigError(
            f"noise: {math.sqrt(max(variance, 0.0)):.3g} grid units are fewer than the {LEAST_SHARE:g} from "
            "which on discrete noise hides as continuous noise does; choose a smaller epsilon."
        )
    return math.sqrt(variance - SMOOTHING**2) / sensitivity


def share_std(noise_multiplier: float, *, sensitivity: float, shares: int) -> float:
    """Return the parameter of each of ``shares`` equal discrete Gaussians that guarantee a noise multiplier.

    The inverse of :func:`accounted_multiplier`: sqrt((sigma^2 Delta^2 + 9) / shares), in grid units; 0 for 0.
    """
    if noise_multiplier == 0.0:
        return 0.0
    return math.sqrt(((noise_multiplier * sensitivity) ** 2 + SMOOTHING**2) / shares)


def smoothing_sum(width: float) -> float:
    """Return delta(x) = 2 * sum over k >= 1 of exp(-2 pi^2 x^2 k^2), how far a lattice sum strays."""
    return 2.0 * math.fsum(math.exp(-2.0 * (math.pi * width * k) ** 2) for k in range(1, _TERMS))


def log_ratio(width: float) -> float:
    """Return log((1 + delta(x)) / (1 - delta(x))), the largest log ratio of two lattice sums."""
    stray = smoothing_sum(width)
    return math.log1p(stray) - math.log1p(-stray) if stray < 1.0 else math.inf


def log_factor(*, dimension: int, steps: int, share: float, shares: int) -> float:
    """Return 2 d T (a1 + a2), by which the lemma moves epsilon over a whole training.

    a1 is of the random rounding at eta = 3, a2 of adding up ``shares`` discrete Gaussians of at least
    ``share`` grid units: the k-th addition has the lattice sum of width share * sqrt(k / (k + 1)). Below
    2**-200 in the whole range.
    """
    adding = math.fsum(log_ratio(share * math.sqrt(k / (k + 1))) for k in range(1, min(shares, 64)))
    # From the 64th on the width is above 0.99 shares: each is at most the last one taken.
    adding += max(0, shares - 64) * log_ratio(share * math.sqrt(63 / 64))
    return 2.0 * dimension * steps * (log_ratio(SMOOTHING) + adding)
