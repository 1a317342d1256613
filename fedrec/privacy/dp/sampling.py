"""Sample records by Poisson sampling: each record enters a step independently of all others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.privacy.randomness import Randomness


def poisson_sample(count: int, *, rate: float, rng: Randomness) -> NDArray[np.int64]:
    """Draw a Poisson sample: select each record independently with probability ``rate``.

    The probability is exact to 2**-52, the resolution of the uniform numbers that are compared with ``rate``.

    Args:
        count: number of records.
        rate: q, the sampling rate, in (0, 1].
        rng: randomness; one uniform number is read per record.

    Returns:
        The ascending indices of the selected records, int64 (m,); m may be 0.

    Raises:
        ConfigError: ``count`` is negative or ``rate`` is outside (0, 1].
    """
    if count < 0:
        raise ConfigError(f"poisson_sample: the number of records must not be negative, but is {count}.")
    if not 0.0 < rate <= 1.0:
        raise ConfigError(f"sample rate: {rate} is outside (0, 1]; choose a rate such as 0.1.")
    return np.flatnonzero(rng.uniform(count) < rate).astype(np.int64, copy=False)
