"""Poisson sampling: every record enters a step by its own coin, whatever else the merchant holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.privacy.randomness import Randomness


def poisson_sample(count: int, *, rate: float, rng: Randomness) -> NDArray[np.int64]:
    """Choose each of ``count`` records independently with probability ``rate``.

    Returns the ascending indices of those chosen, int64 of shape (m,), m possibly 0. The probability
    is exact to 2**-52, the grid of the uniforms that are compared with ``rate``.

    Raises:
        ConfigError: ``count`` is negative or ``rate`` outside (0, 1].

    """
    if count < 0:
        raise ConfigError(f"poisson_sample: the number of records must not be negative, but is {count}.")
    if not 0.0 < rate <= 1.0:
        raise ConfigError(f"sample rate: {rate} is outside (0, 1]; choose a rate such as 0.1.")
    return np.flatnonzero(rng.uniform(count) < rate).astype(np.int64, copy=False)
