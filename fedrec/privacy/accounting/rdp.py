"""Compute Renyi divergences (RDP) at real orders, for the lifetime filter and as a cross-check of PLD.

One step's divergence is that of the subsampled continuous Gaussian. By
:mod:`fedrec.privacy.accounting.discrete_noise_lemma` it bounds the discrete noise at the noise multiplier
sqrt(V - 9) / Delta, at every order. At order a it is log E[(1 - q + q exp((2x - 1) / (2 sigma^2)))^a] / (a -
1), over x from N(0, sigma^2), for a removed record; an added record gives less (Mironov, Talwar and Zhang
2019, "Renyi Differential Privacy of the Sampled Gaussian Mechanism", theorem 5). Neighbouring data sets
differ by one record added or removed; records are Poisson-sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from fedrec.privacy.accounting.accountant_spec import AccountantSpec
from fedrec.privacy.accounting.discrete_noise_lemma import accounted_rate
from fedrec.privacy.accounting.events import LEAST_MULTIPLIER, Event, check_delta

_REAL = np.array([*np.arange(105, 200, 5), *np.arange(200, 400, 10), *np.arange(400, 800, 25)]) / 100.0
_WHOLE = [
    *range(8, 33),
    *range(34, 65, 2),
    *range(68, 129, 4),
    *range(136, 257, 8),
    320,
    384,
    512,
    768,
    1024,
    2048,
]
ORDERS: NDArray[np.float64] = np.concatenate([_REAL, np.array(_WHOLE, dtype=np.float64)])
"""Renyi orders of RDP vectors, from 1.05 to 2048, ascending; an RDP vector is float64 of this shape."""
# Relative and absolute amounts to round up by: more than the float error of either sum below.
_ROUND_UP, _EXCESS = 1e-12, 1e-12
_REACH = 12.0
_PER_WIDTH = 8.0


@lru_cache(maxsize=1024)
def _rdp_of_step(sample_rate: float, noise_multiplier: float) -> NDArray[np.float64]:
    """Return the RDP vector of one step, read-only."""
    rate = accounted_rate(sample_rate)
    if noise_multiplier == 0.0 or (rate < 1.0 and noise_multiplier < LEAST_MULTIPLIER):
        rdp = np.full(ORDERS.shape, np.inf)
    elif rate == 1.0:
        rdp = ORDERS / (2.0 * noise_multiplier**2)
    else:
        log_moments = np.concatenate(
            [
                _by_trapezia(rate, noise_multiplier, ORDERS[: _REAL.size]),
                _by_binomials(rate, noise_multiplier, ORDERS[_REAL.size :]),
            ]
        )
        rdp = np.maximum(log_moments, 0.0) / (ORDERS - 1.0)
    rdp = rdp * (1.0 + _ROUND_UP) + _EXCESS
    rdp.flags.writeable = False
    return np.asarray(rdp)


def _by_trapezia(rate: float, sigma: float, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the logarithm of the moment at real orders by the trapezoidal rule on the whole real line.

    The integrand is analytic up to a distance of pi * sigma^2 from the real line, where the mixture has a
    zero, and decays like a Gaussian of width sigma. The relative error of the rule is then of order
    exp(-2 pi * distance / spacing), below 1e-60 at this spacing (Trefethen and Weideman 2014, "The
    Exponentially Convergent Trapezoidal Rule", theorem 5.1). The range extends 12 deviations beyond the
    centres of both parts of the mixture at the largest order.

    Args:
        rate: sampling rate q.
        sigma: noise multiplier.
        orders: orders a, float64, one dimension.

    Returns:
        The logarithm of the moment at each order, float64 of the same shape.
    """
    spacing = min(sigma, sigma**2) / _PER_WIDTH
    reach = _REACH * sigma
    x = np.arange(-reach, float(orders[-1]) + reach + spacing, spacing)
    log_density = -(x**2) / (2.0 * sigma**2) - math.log(sigma * math.sqrt(2.0 * math.pi)) + math.log(spacing)
    log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2.0 * x - 1.0) / (2.0 * sigma**2))
    exponents = log_density + orders[:, None] * log_ratio
    return np.asarray(logsumexp(exponents, axis=1))


def _by_binomials(rate: float, sigma: float, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the logarithm of the moment at integer orders (Mironov, Talwar and Zhang 2019, section 3.3).

    The moment is the sum over k of C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) / (2 sigma^2)).

    Args:
        rate: sampling rate q.
        sigma: noise multiplier.
        orders: integer orders a as float64, one dimension.

    Returns:
        The logarithm of the moment at each order, float64 of the same shape.
    """
    a = orders[:, None]
    k = np.arange(orders[-1] + 1.0)[None, :]
    with np.errstate(over="ignore", invalid="ignore"):
        terms = (
            gammaln(a + 1)
            - gammaln(k + 1)
            - gammaln(np.maximum(a - k, 0) + 1)
            + k * math.log(rate)
            + (a - k) * math.log1p(-rate)
            + k * (k - 1) / (2.0 * sigma**2)
        )
        return np.asarray(logsumexp(np.where(k <= a, terms, -np.inf), axis=1))


def rdp_vector(event: Event) -> NDArray[np.float64]:
    """Return the RDP vector of an event: float64, at :data:`ORDERS`; the vectors of several events add up."""
    if event.steps == 0:
        return np.zeros(ORDERS.shape)
    return _rdp_of_step(event.sample_rate, event.noise_multiplier) * event.steps


def epsilons_from_rdp(rdp: NDArray[np.float64], *, delta: float) -> NDArray[np.float64]:
    """Convert an RDP vector to epsilon at each order (Canonne, Kamath and Steinke 2020, proposition 12).

    Args:
        rdp: RDP vector, float64, at :data:`ORDERS`.
        delta: the delta that epsilon is taken at.

    Returns:
        The epsilon of each order, float64 of the same shape.

    Raises:
        ConfigError: ``delta`` is out of range.
    """
    check_delta(delta)
    epsilons = rdp + np.log1p(-1.0 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1.0)
    return np.asarray(np.maximum(0.0, epsilons))


def epsilon_from_rdp(rdp: NDArray[np.float64], *, delta: float) -> float:
    """Convert an RDP vector to epsilon at the best order.

    Args:
        rdp: RDP vector, float64, at :data:`ORDERS`.
        delta: the delta that epsilon is taken at.

    Returns:
        The smallest epsilon of all orders; 0 for a vector of zeros.

    Raises:
        ConfigError: ``delta`` is out of range.
    """
    check_delta(delta)
    return float(np.min(epsilons_from_rdp(rdp, delta=delta))) if np.any(rdp) else 0.0


def epsilon_rdp(events: Iterable[Event], *, delta: float) -> float:
    """Compute epsilon by RDP at the best order; it isn't below that of PLD by more than PLD's excess of 1%.

    Args:
        events: the noised steps and releases.
        delta: the delta that epsilon is taken at.

    Returns:
        Epsilon of all events together; infinite if a step has no noise, or is sampled with a noise multiplier
        below 0.05.

    Raises:
        ConfigError: ``delta`` is out of range.
    """
    total = np.zeros(ORDERS.shape)
    for event in events:
        total = total + rdp_vector(event)
    return epsilon_from_rdp(total, delta=delta)


SPEC = AccountantSpec(
    name="rdp",
    version="orders 1.05-2048 at sqrt(V - 9) fedrec/2",
    bound="Renyi divergences of steps add up and are rounded up, and the best order's bound is taken.",
    epsilon=epsilon_rdp,
)
