"""Bound sums of discrete Gaussians by one continuous Gaussian, so that the accountants' epsilons are proved.

A record changes the opened sum by an integer vector of norm at most Delta, and the sum contains the discrete
Gaussians of the honest merchants. Let V be the sum of their parameters sigma^2. With eta = 3, and up to a
factor within exp(+-(a1 + a2)) per coordinate, the sum has the distribution of a continuous Gaussian of
variance V - eta^2 that is then rounded at random, independently of the record. So the subsampled Gaussian
mechanism with noise multiplier sqrt(V - 9) / Delta bounds every step. ``docs/accounting.md`` has the
statement, the proof and the sources.
"""

from __future__ import annotations

import math

from fedrec.errors import ConfigError

SMOOTHING = 3.0
"""eta in grid units: the width of the randomised rounding."""
LEAST_SHARE = 8.0
"""Smallest sigma of one merchant's discrete Gaussian, in grid units: sums of narrower ones deviate."""
MAX_DIMENSION = 1 << 27
MAX_STEPS = 1 << 20
"""Largest sizes for which the lemma's log factor over a training is below 2**-200 (:func:`log_factor`)."""
RATE_GRID = 2.0**-52
"""Grid of the uniform variate that samples a record; the true sampling rate may exceed q by this."""
_TERMS = 8


def check_range(*, dimension: int, steps: int) -> None:
    """Check that a training is within the sizes that the lemma's factors are bounded for.

    Args:
        dimension: number of trainable parameters.
        steps: number of noised steps.

    Raises:
        ConfigError: the training is larger.
    """
    if dimension > MAX_DIMENSION or steps > MAX_STEPS:
        raise ConfigError(
            f"privacy: {dimension} parameters over {steps} noised steps are beyond the {MAX_DIMENSION} and "
            f"{MAX_STEPS} that the guarantee is proved for; choose a smaller model, or fewer rounds."
        )


def accounted_rate(sample_rate: float) -> float:
    """Return the sampling rate to account for: the plan's plus :data:`RATE_GRID`, at most 1."""
    return min(1.0, sample_rate + RATE_GRID)


def accounted_multiplier(variance: float, *, sensitivity: float) -> float:
    """Compute the noise multiplier that discrete noise guarantees: sqrt(V - 9) / Delta.

    Args:
        variance: V, the sum of the honest shares' parameters sigma^2 in grid units squared, where each sigma
            is at least :data:`LEAST_SHARE`; 0 for no noise.
        sensitivity: Delta in grid units.

    Returns:
        The noise multiplier; 0 for no noise.

    Raises:
        ConfigError: there is noise, but less than :data:`LEAST_SHARE`.
    """
    if variance == 0.0:
        return 0.0
    if variance < LEAST_SHARE**2 * (1 - 1e-12):
        raise ConfigError(
            f"noise: a standard deviation of {math.sqrt(max(variance, 0.0)):.3g} grid units is below the "
            f"{LEAST_SHARE:g} that the guarantee of discrete noise is proved for; choose a smaller epsilon."
        )
    return math.sqrt(variance - SMOOTHING**2) / sensitivity


def needed_variance(noise_multiplier: float, *, sensitivity: float) -> float:
    """Compute the variance V that guarantees a noise multiplier: sigma^2 Delta^2 + 9.

    This is the inverse of :func:`accounted_multiplier`.

    Args:
        noise_multiplier: sigma; 0 for no noise.
        sensitivity: Delta in grid units.

    Returns:
        V in grid units squared; 0 for no noise.
    """
    if noise_multiplier == 0.0:
        return 0.0
    return (noise_multiplier * sensitivity) ** 2 + SMOOTHING**2


def share_std(noise_multiplier: float, *, sensitivity: float, shares: int) -> float:
    """Compute the parameter of equal discrete Gaussians whose sum guarantees a noise multiplier.

    Args:
        noise_multiplier: sigma; 0 for no noise.
        sensitivity: Delta in grid units.
        shares: number of honest shares in the sum.

    Returns:
        The parameter of each share in grid units; 0 for no noise.
    """
    return math.sqrt(needed_variance(noise_multiplier, sensitivity=sensitivity) / shares)


def smoothing_sum(width: float) -> float:
    """Return delta(x) = 2 * sum over k >= 1 of exp(-2 pi^2 x^2 k^2): how far a lattice sum is from 1."""
    return 2.0 * math.fsum(math.exp(-2.0 * (math.pi * width * k) ** 2) for k in range(1, _TERMS))


def log_ratio(width: float) -> float:
    """Return log((1 + delta(x)) / (1 - delta(x))), the largest log ratio of two such lattice sums."""
    deviation = smoothing_sum(width)
    return math.log1p(deviation) - math.log1p(-deviation) if deviation < 1.0 else math.inf


def log_factor(*, dimension: int, steps: int, share: float, shares: int) -> float:
    """Compute 2 d T (a1 + a2), the change of epsilon by the lemma over a whole training.

    a1 stems from the randomised rounding at eta = 3. a2 stems from adding up discrete Gaussians: the k-th
    addition contributes the lattice sum of width share * sqrt(k / (k + 1)) at most, also where the Gaussians
    are of unequal parameters of at least ``share``, as the layers of several merchants are. The result is
    below 2**-200 for all sizes that :func:`check_range` allows.

    Args:
        dimension: d, the number of trainable parameters.
        steps: T, the number of noised steps.
        share: smallest parameter of any of the discrete Gaussians, in grid units.
        shares: number of discrete Gaussians in the sum, every layer of every merchant counted.

    Returns:
        The bound on the change of epsilon.
    """
    adding = math.fsum(log_ratio(share * math.sqrt(k / (k + 1))) for k in range(1, min(shares, 64)))
    # From the 64th addition on the width is above 0.99 share, so each term is at most the last one computed.
    adding += max(0, shares - 64) * log_ratio(share * math.sqrt(63 / 64))
    return 2.0 * dimension * steps * (log_ratio(SMOOTHING) + adding)
