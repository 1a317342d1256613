"""Release the number of a merchant's units once, with noise.

This is the only number about a merchant's photos that is released outside a training. Adding or removing one
unit changes the count of distinct units by at most 1, so a discrete Gaussian of parameter sigma makes the
release a discrete Gaussian mechanism of sensitivity 1 without sampling (Canonne, Kamath and Steinke 2020,
"The Discrete Gaussian for Differential Privacy"). The Renyi divergence bound of the continuous mechanism at
sigma holds for it. PLD bounds it by the continuous mechanism at sqrt(sigma^2 - 9): randomised rounding of
width 3 turns that one into the discrete Gaussian of parameter sigma, up to a factor of 1 + 2^-254.
"""

from __future__ import annotations

import math

from fedrec.privacy.accounting.events import Event
from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.randomness import Randomness

COUNT_SIGMA = 20.0
"""Noise parameter of a released count, in units; it raises the epsilon of a training of 2.69 by 0.01."""
_ROUNDING_VARIANCE = 9.0


def noised_size(units: int, *, rng: Randomness) -> int:
    """Add noise to a count of distinct units.

    Args:
        units: the exact count.
        rng: source of the noise.

    Returns:
        The noisy count, at least 1. The clamp is post-processing and costs no privacy.
    """
    return max(1, units + int(discrete_gaussian(1, sigma=COUNT_SIGMA, rng=rng)[0]))


def count_event(sigma: float = COUNT_SIGMA) -> Event:
    """Return the event of one release, the same in both views; every unit is counted, so q is 1."""
    return Event(1.0, math.sqrt(max(0.0, sigma**2 - _ROUNDING_VARIANCE)), 1)
