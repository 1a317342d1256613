"""Compute epsilon from a history of steps, by privacy loss distributions (PLD) and, as a cross-check, by RDP.

Noise multipliers in a history are sqrt(V - 9) / Delta: for these, a sum of discrete Gaussians of variance V
is at least as private as a continuous Gaussian (charge_checks.py checks them). Sampling rates are increased
by 2**-52, the resolution of the uniform numbers that select records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache, reduce

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld

from .outcome import Problem, shown

Steps = tuple[tuple[float, float, int], ...]
"""(sampling rate, noise multiplier, steps) of each kind of step, in the order of their last charge."""
SAMPLING_RESOLUTION = 2.0**-52
FLOAT_DELTA = 1e-14
"""Subtracted from delta for each composed step, for floating-point error."""
_REAL = [n / 100 for n in (*range(105, 200, 5), *range(200, 400, 10), *range(400, 800, 25))]
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
ORDERS = np.asarray([*_REAL, *_WHOLE], dtype=np.float64)
_LOG_FACTORIALS = np.asarray([math.lgamma(k + 1) for k in range(_WHOLE[-1] + 1)])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
TOLERANCE, LEAST = 1e-3, 1e-5
"""Largest relative and absolute difference of a recorded epsilon; the larger of the two applies."""
LARGEST = 700.0
"""Epsilons above it are taken as equal: the exponentials of dp-accounting end at 709, and no such epsilon
bounds anything."""
MIN_DELTA = 1e-12
CROSS_CHECK = 1.01
"""Largest ratio of the epsilon by PLD to that by RDP; above 1 for the discretization of PLD."""
_INTERVAL = 8e-3
_COPIES_INTERVAL = 5e-3
LEAST_NOISE, MOST_STEPS = 0.05, 10**6
"""Limits that bound the time a hostile bundle can take: a sampled step with less noise has no finite epsilon,
and a history with more steps is refused."""
_MOST_POINTS = 2**20
"""Largest number of grid points of one step; a coarser grid gives a larger epsilon."""


@lru_cache(maxsize=256)
def rdp_step(rate: float, noise: float) -> np.ndarray:
    """Compute the Renyi divergences of one step: log E[ratio^a] / (a - 1), for a record removed.

    Args:
        rate: q, the sampling rate.
        noise: the noise multiplier.

    Returns:
        float64 (orders,), at ``ORDERS``.
    """
    rate = min(1.0, rate + SAMPLING_RESOLUTION)
    if noise == 0.0 or (rate < 1.0 and noise < LEAST_NOISE):
        return np.full(len(ORDERS), math.inf)
    if rate == 1.0:
        return ORDERS / (2 * noise**2)
    found = [*_log_moments(rate, noise), *(_log_moment(rate, noise, order) for order in _WHOLE)]
    return np.maximum(found, 0.0) / (ORDERS - 1)


def _log_moment(rate: float, noise: float, order: int) -> float:
    """Compute log E[ratio^a] at an integer order a.

    It is the log of the sum over k of C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) / (2 noise^2)) (Mironov,
    Talwar and Zhang 2019, "Renyi Differential Privacy of the Sampled Gaussian Mechanism", section 3.3).

    Args:
        rate: q, the sampling rate.
        noise: the noise multiplier.
        order: a.

    Returns:
        The logarithm.
    """
    k = np.arange(order + 1)
    terms = _LOG_FACTORIALS[order] - _LOG_FACTORIALS[k] - _LOG_FACTORIALS[order - k]
    terms = terms + k * math.log(rate) + (order - k) * math.log1p(-rate) + k * (k - 1) / (2 * noise**2)
    return _log_sum(terms)


def _log_moments(rate: float, noise: float) -> list[float]:
    """Compute log E[ratio^a] at the real orders, by Gauss-Legendre quadrature of mixture * ratio^(a - 1)."""
    panel = min(noise, noise**2)
    first, last = -12.0 * noise, _REAL[-1] + 12.0 * noise
    starts = np.arange(math.ceil((last - first) / panel)) * panel + first
    x = (starts[:, None] + panel * (_NODES + 1) / 2).ravel()
    weights = np.tile(np.log(_WEIGHTS * panel / 2), len(starts))
    base = -(x**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
    # The mixture's density is the base density times the ratio.
    return [_log_sum(weights + base + ratio + (order - 1) * ratio) for order in _REAL]


def _log_sum(terms: np.ndarray) -> float:
    largest = float(terms.max())
    return largest + math.log(float(np.exp(terms - largest).sum()))


def rdp_epsilons(rdp: np.ndarray, delta: float) -> np.ndarray:
    """Convert Renyi divergences to the epsilon of each order.

    Args:
        rdp: float64 (orders,), Renyi divergences at ``ORDERS``.
        delta: the delta.

    Returns:
        float64 (orders,), by Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential
        Privacy", proposition 12.
    """
    return np.maximum(0.0, rdp + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1))


def rdp_epsilon(rdp: np.ndarray, delta: float) -> float:
    """Convert Renyi divergences to the smallest epsilon of all orders.

    Args:
        rdp: float64 (orders,), Renyi divergences at ``ORDERS``.
        delta: the delta.

    Returns:
        Epsilon; infinity if ``delta`` is below ``MIN_DELTA``.
    """
    if delta < MIN_DELTA:
        return math.inf
    return float(np.min(rdp_epsilons(rdp, delta))) if np.any(rdp) else 0.0


@lru_cache(maxsize=64)
def _pld_step(rate: float, noise: float, interval: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        noise,
        sampling_prob=min(1.0, rate + SAMPLING_RESOLUTION),
        value_discretization_interval=interval,
        pessimistic_estimate=True,
    )


def _total_steps(history: Steps) -> int:
    """Count all steps; raise ``ValueError`` for more than ``MOST_STEPS``."""
    steps = sum(steps for _, _, steps in history)
    if steps > MOST_STEPS:
        raise ValueError(f"{steps} steps are more than the largest number, {MOST_STEPS}")
    return steps


def _without_figure(history: Steps) -> bool:
    """Return whether a step has too little noise for a finite epsilon."""
    return any(noise < (LEAST_NOISE if rate < 1.0 else LEAST_NOISE**2) for rate, noise, _ in history)


def _least_interval(history: Steps, *, copies: int = 1) -> float:
    """Return the smallest interval for which the losses of a step, to 12 deviations, fit ``_MOST_POINTS``."""
    noise = min((noise for _, noise, _ in history), default=math.inf) / copies
    return (12.0 / noise + 0.5 / noise**2) / _MOST_POINTS


def _pld_steps(rate: float, noise: float, steps: int, interval: float) -> pld.PrivacyLossDistribution:
    return _composed(_pld_step(rate, noise, interval), steps)


def _composed(step: pld.PrivacyLossDistribution, steps: int) -> pld.PrivacyLossDistribution:
    return step.self_compose(steps) if steps > 1 else step


@lru_cache(maxsize=32)
def _pld_kept(history: Steps, interval: float) -> pld.PrivacyLossDistribution:
    """Compose a history; cached, since later charges are composed with it."""
    last = _pld_steps(*history[-1], interval)
    return last if len(history) == 1 else _pld_kept(history[:-1], interval).compose(last)


@lru_cache(maxsize=65536)
def pld_epsilon(history: Steps, delta: float, rough: float) -> float:
    """Compute the epsilon of a history by PLD, at most 0.03% above the exact one.

    Args:
        history: the steps.
        delta: the delta.
        rough: an estimate of epsilon, from which the grid is chosen.

    Returns:
        Epsilon; infinity if there is no bound.
    """
    steps = _total_steps(history)
    delta_left = delta - FLOAT_DELTA * steps
    if delta < MIN_DELTA or delta_left <= 0 or _without_figure(history):
        return math.inf
    if not history:
        return 0.0
    # The relative excess by discretization grows with the steps and with the square of interval / epsilon.
    # The interval is a power of two, so that neighbouring charges share their steps' cached distributions.
    wanted, least = _INTERVAL / math.sqrt(steps), _least_interval(history)
    while True:
        coarsest = min(max(0.02, rough / 2**15), 10.0)
        interval = 2.0 ** math.floor(math.log2(max(least, min(wanted * max(rough, 1e-3), coarsest))))
        earlier, last = history[:-1], history[-1]
        whole = _pld_steps(*last, interval)
        if earlier:
            whole = _pld_kept(earlier, interval).compose(whole)
        epsilon = float(whole.get_epsilon_for_delta(delta_left))
        if epsilon >= rough / 2 or rough <= 1e-3 or epsilon == 0.0:
            return epsilon
        rough = epsilon


def matches(recorded: float | None, computed: float, *, within: float = TOLERANCE) -> bool:
    """Return whether a recorded epsilon equals the recomputed one within the tolerance.

    Args:
        recorded: the recorded epsilon; None for no bound.
        computed: the recomputed epsilon; infinity for no bound.
        within: the relative tolerance.

    Returns:
        Whether they are equal, or both above ``LARGEST``.
    """
    value = math.inf if recorded is None else recorded
    if min(value, computed) > LARGEST:
        return True
    if math.isinf(value) or math.isinf(computed):
        return value == computed
    return abs(value - computed) <= max(within * computed, LEAST)


def check_epsilon(
    recorded: float | None, computed: float, *, what: str, entry: int | None
) -> Iterator[Problem]:
    """Check a recorded epsilon.

    Args:
        recorded: the recorded epsilon; None for no bound.
        computed: the recomputed epsilon; infinity for no bound.
        what: what computed it, for the message.
        entry: number of the ledger entry, if it is an entry's.

    Yields:
        The problem, if they differ.
    """
    if not matches(recorded, computed):
        reason = f"epsilon by {what}, is recorded as {shown(recorded)}; the history gives {computed:.6g}"
        yield Problem(entry, reason)


def checked_pld_epsilon(history: Steps, delta: float) -> float:
    """Compute the epsilon of a history by PLD, and check it against RDP.

    Args:
        history: the steps.
        delta: the delta.

    Returns:
        Epsilon; infinity if there is no bound.

    Raises:
        ValueError: the epsilon by PLD is above that by RDP, or there are too many steps.
    """
    total = sum(
        (rdp_step(rate, noise) * steps for rate, noise, steps in history), start=np.zeros(len(ORDERS))
    )
    rough = rdp_epsilon(total, delta)
    found = pld_epsilon(history, delta, rough)
    if found > CROSS_CHECK * rough and rough <= LARGEST:
        raise ValueError(f"epsilon by PLD, {found:.6g}, is above the one by RDP, {rough:.6g}")
    return found


@lru_cache(maxsize=64)
def pld_epsilon_of_copies(history: Steps, delta: float, *, copies: int) -> float:
    """Compute epsilon by PLD for several copies of a record, each sampled independently.

    A step adds the copies that were sampled: a mixture of Gaussians over Binomial(copies, rate)
    (Choquette-Choo, Ganesh, Steinke and Thakurta 2024, "Privacy Amplification for Matrix Mechanisms").

    Args:
        history: the steps.
        delta: the delta that is left for the accountant.
        copies: number of copies.

    Returns:
        Epsilon; infinity if there is no bound.
    """
    total = _total_steps(history)
    delta -= FLOAT_DELTA * total
    if delta < MIN_DELTA or _without_figure(history):
        return math.inf
    if not history:
        return 0.0
    guess = _rough_epsilon_of_copies(history, delta, copies)
    # A mixture's losses take longer, point by point.
    least = 8 * _least_interval(history, copies=copies)
    while True:
        coarsest = min(max(0.1, guess / 2**15), 10.0)
        interval = max(least, min(_COPIES_INTERVAL * guess / math.sqrt(total), coarsest))
        parts = [
            _composed(_copies_step(rate, noise, copies, interval), steps) for rate, noise, steps in history
        ]
        whole = reduce(pld.PrivacyLossDistribution.compose, parts)
        found = float(whole.get_epsilon_for_delta(delta))
        if found >= guess / 2 or found <= 1e-3:
            return found
        guess = found


def _rough_epsilon_of_copies(history: Steps, delta: float, copies: int) -> float:
    """Estimate epsilon, which the grid is chosen by: all copies are sampled together, or in every step."""
    total = np.zeros(len(ORDERS))
    for rate, noise, steps in history:
        smaller = noise / copies
        total += rdp_step(rate if smaller >= LEAST_NOISE else 1.0, smaller) * steps
    return rdp_epsilon(total, delta)


@lru_cache(maxsize=64)
def _copies_step(rate: float, noise: float, copies: int, interval: float) -> pld.PrivacyLossDistribution:
    drawn = min(1.0, rate + SAMPLING_RESOLUTION)
    if drawn == 1.0:
        return pld.from_gaussian_mechanism(noise / copies, value_discretization_interval=interval)
    weights = [math.comb(copies, j) * drawn**j * (1 - drawn) ** (copies - j) for j in range(copies + 1)]
    return pld.from_mixture_gaussian_mechanism(
        noise,
        [float(j) for j, weight in enumerate(weights) if weight > 0],
        [weight for weight in weights if weight > 0],
        value_discretization_interval=interval,
    )
