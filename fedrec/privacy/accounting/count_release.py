"""How many units a merchant holds, told once with noise: the one figure about its photos outside a training.

One unit added or removed moves the count of distinct units by one at most, so a discrete Gaussian of
parameter sigma makes it a Gaussian mechanism of sensitivity 1 without sampling (Canonne, Kamath and Steinke
2020). Its Renyi divergences obey the bound of the continuous one at sigma. PLD of the continuous one bounds
it at sqrt(sigma^2 - 9): rounding that one at random with a width of 3 gives the discrete Gaussian of sigma,
but for a factor of 1 + 2^-254.
"""

from __future__ import annotations

import math

from fedrec.privacy.accounting.events import Event
from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.randomness import Randomness

COUNT_SIGMA = 20.0
"""Standard deviation of a released count, in units: beside a training of epsilon 2.69 it costs 0.01."""
_ROUNDING_VARIANCE = 9.0


def noised_size(units: int, *, rng: Randomness) -> int:
    """Return a count of distinct units with noise, at least 1: what lies below is of no use to anybody.

    The clamp comes after the noise and costs nothing.
    """
    return max(1, units + int(discrete_gaussian(1, sigma=COUNT_SIGMA, rng=rng)[0]))


def count_event(sigma: float = COUNT_SIGMA) -> Event:
    """Return what one release costs, the same in both views: every unit is counted, so q is 1."""
    return Event(1.0, math.sqrt(max(0.0, sigma**2 - _ROUNDING_VARIANCE)), 1)
