"""Bound what one record changes of a rounded sum, on a plan's grid or a charge's."""

from __future__ import annotations

import math
from functools import lru_cache

TRUNCATION_BETA = 2.0**-60
"""The part of beta for truncated samples; the rest is for rounding."""
FLOAT_SLACK = 2.0**-16
"""Relative excess of a clipped gradient over the clipping norm by floating point."""
INFLATION = 1.025
"""Largest ratio of the sensitivity to the clipping norm on a plan's grid, which is the coarsest such grid."""
BETA = 1e-12
"""Probability per step that the sensitivity is exceeded, in the derivation of a plan's grid."""


def plan_sensitivity(dimension: int) -> float:
    """Return the sensitivity on the grid of a plan with so many numbers, in grid units."""
    return plan_grid(dimension)[1]


@lru_cache(maxsize=256)
def plan_grid(dimension: int) -> tuple[int, float]:
    """Compute a plan's grid, and the sensitivity on it.

    Args:
        dimension: d, number of parameters, or of site figures.

    Returns:
        S, grid units per clipping norm, and Delta in grid units.

    Raises:
        ValueError: no grid is fine enough.
    """
    for bits in range(41):
        bound = sensitivity(scale=1 << bits, dimension=dimension, beta=BETA)
        if bound <= INFLATION * (1 << bits):
            return 1 << bits, bound
    raise ValueError(f"there is no grid for {dimension} parameters")


@lru_cache(maxsize=1024)
def sensitivity(*, scale: int, dimension: int, beta: float) -> float:
    """Bound the L2 norm of one record's change of a rounded sum, except with probability beta.

    This is the bound of Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism for
    Federated Learning with Secure Aggregation", section 4, times the floating-point slack. A part of beta is
    for truncated samples.

    Args:
        scale: S, grid units per clipping norm.
        dimension: d, number of coordinates.
        beta: probability per step that the bound is exceeded.

    Returns:
        Delta, in grid units.
    """
    rounding = beta - TRUNCATION_BETA if beta > TRUNCATION_BETA else beta
    deviation = math.sqrt(2.0 * math.log(1.0 / rounding)) * (scale + math.sqrt(dimension) / 2.0)
    return (1.0 + FLOAT_SLACK) * math.sqrt(scale**2 + dimension / 4.0 + deviation)
