"""Epsilon by Renyi divergences (RDP) of integer orders: the proved figure, which enforces a lifetime cap.

It holds for the discrete Gaussian as well, since its Renyi divergence obeys the Gaussian's bound (Canonne,
Kamath and Steinke 2020, proposition 5) and the integer-order formula needs nothing else (Mironov, Talwar and
Zhang 2019, section 3.3; Zhu and Wang 2019). Neighbouring data sets differ by one record added or removed;
records are sampled by Poisson.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from fedrec.privacy.accounting.events import Event, check_delta

ORDERS: NDArray[np.int64] = np.array([*range(2, 257), 320, 384, 512, 768, 1024], dtype=np.int64)
"""Integer Renyi orders at which RDP is kept; an RDP vector has this shape."""


@lru_cache(maxsize=1024)
def _rdp_of_step(sample_rate: float, noise_multiplier: float) -> NDArray[np.float64]:
    """RDP of one step at :data:`ORDERS` (Mironov, Talwar and Zhang 2019, equation 6), read-only."""
    orders = ORDERS.astype(np.float64)
    if noise_multiplier == 0.0:
        rdp = np.full(orders.shape, np.inf)
    elif sample_rate == 1.0:
        rdp = orders / (2.0 * noise_multiplier**2)
    else:
        a = orders[:, None]
        k = np.arange(ORDERS[-1] + 1, dtype=np.float64)[None, :]
        with np.errstate(over="ignore", invalid="ignore"):
            terms = (
                gammaln(a + 1)
                - gammaln(k + 1)
                - gammaln(np.maximum(a - k, 0) + 1)
                + k * math.log(sample_rate)
                + (a - k) * math.log1p(-sample_rate)
                + k * (k - 1) / (2.0 * noise_multiplier**2)
            )
            rdp = np.asarray(logsumexp(np.where(k <= a, terms, -np.inf), axis=1)) / (orders - 1)
    # The sum is at least 1 in exact arithmetic; lgamma's rounding may say a little less, or more.
    rdp = np.maximum(rdp, 0.0) + 1e-12
    rdp.flags.writeable = False
    return np.asarray(rdp)


def rdp_vector(event: Event) -> NDArray[np.float64]:
    """Renyi divergence bounds of ``event`` at :data:`ORDERS`, float64; vectors of several events add up."""
    if event.steps == 0:
        return np.zeros(ORDERS.shape)
    return _rdp_of_step(event.sample_rate, event.noise_multiplier) * event.steps


def epsilon_from_rdp(rdp: NDArray[np.float64], *, delta: float) -> float:
    """Turn an RDP vector at :data:`ORDERS` into epsilon (Canonne, Kamath and Steinke 2020, proposition 12).

    Raises:
        ConfigError: ``delta`` is out of range.

    """
    check_delta(delta)
    if not np.any(rdp):
        return 0.0
    orders = ORDERS.astype(np.float64)
    epsilons = rdp + np.log1p(-1.0 / orders) - np.log(delta * orders) / (orders - 1)
    return max(0.0, float(np.min(epsilons)))


def epsilon_rdp(events: Iterable[Event], *, delta: float) -> float:
    """Epsilon of all ``events`` together at ``delta``, by integer-order RDP: the proved figure.

    Infinite if a step has no noise. Raises :class:`ConfigError` when ``delta`` is out of range.
    """
    total = np.zeros(ORDERS.shape)
    for event in events:
        total = total + rdp_vector(event)
    return epsilon_from_rdp(total, delta=delta)
