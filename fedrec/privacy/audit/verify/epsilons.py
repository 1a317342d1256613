"""Epsilon from the raw history alone, by privacy loss distributions (PLD) and, as a cross-check, by RDP.

Noise multipliers in a history are sqrt(V - 9) / Delta, at which a sum of discrete Gaussians of variance V
hides no less than a continuous Gaussian (terms.py follows them). Sampling rates count 2**-52 more, the grid
of the coins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld

from .outcome import Problem, shown

History = tuple[tuple[float, float, int], ...]
"""(sampling rate, noise multiplier, steps), one for each kind of step, in the order of their last charge."""
COIN_GRID = 2.0**-52
FLOAT_DELTA = 1e-14
"""Taken off delta for each step that is composed, for floating point."""
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
"""How far a recorded epsilon may lie from the recomputed one: relative, or this much where that is more."""
MIN_DELTA = 1e-12
CROSS_CHECK = 1.01
"""PLD may lie so much above the epsilon by RDP, and no more: its own grid's excess."""
_FINENESS = 8e-3
_COPIES_FINENESS = 2e-2
LEAST_NOISE, MOST_STEPS = 0.05, 10**6
"""Below the one a sampled step has no figure; of more than the other none is stated. A stranger's bundle may
name any."""
_MOST_POINTS = 2**20
"""Of the grid of one step: a coarser one errs upward."""


@lru_cache(maxsize=256)
def rdp_step(rate: float, noise: float) -> np.ndarray:
    """Renyi divergences of one step at ``ORDERS``: log E[ratio^a] / (a - 1), a record removed."""
    rate = min(1.0, rate + COIN_GRID)
    if noise == 0.0 or (rate < 1.0 and noise < LEAST_NOISE):
        return np.full(len(ORDERS), math.inf)
    if rate == 1.0:
        return ORDERS / (2 * noise**2)
    found = [*_log_moments(rate, noise), *(_log_moment(rate, noise, order) for order in _WHOLE)]
    return np.maximum(found, 0.0) / (ORDERS - 1)


def _log_moment(rate: float, noise: float, order: int) -> float:
    """At a whole order a: log of the sum over k of C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) / (2 noise^2)).

    Mironov, Talwar and Zhang 2019, section 3.3.
    """
    k = np.arange(order + 1)
    terms = _LOG_FACTORIALS[order] - _LOG_FACTORIALS[k] - _LOG_FACTORIALS[order - k]
    terms = terms + k * math.log(rate) + (order - k) * math.log1p(-rate) + k * (k - 1) / (2 * noise**2)
    return _log_sum(terms)


def _log_moments(rate: float, noise: float) -> list[float]:
    """At the real orders: log of the integral of the mixture times ratio^(a - 1), by Gauss's rule."""
    panel = min(noise, noise**2)
    first, last = -12.0 * noise, _REAL[-1] + 12.0 * noise
    starts = np.arange(math.ceil((last - first) / panel)) * panel + first
    x = (starts[:, None] + panel * (_NODES + 1) / 2).ravel()
    weights = np.tile(np.log(_WEIGHTS * panel / 2), len(starts))
    base = -(x**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
    # The mixture itself is the base law times the ratio.
    return [_log_sum(weights + base + ratio + (order - 1) * ratio) for order in _REAL]


def _log_sum(terms: np.ndarray) -> float:
    largest = float(terms.max())
    return largest + math.log(float(np.exp(terms - largest).sum()))


def rdp_epsilons(rdp: np.ndarray, delta: float) -> np.ndarray:
    """Epsilon that each order gives alone (Canonne, Kamath and Steinke 2020, proposition 12)."""
    return np.maximum(0.0, rdp + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1))


def rdp_epsilon(rdp: np.ndarray, delta: float) -> float:
    """Epsilon from Renyi divergences at ``ORDERS``, at the best of them."""
    if delta < MIN_DELTA:
        return math.inf
    return float(np.min(rdp_epsilons(rdp, delta))) if np.any(rdp) else 0.0


@lru_cache(maxsize=64)
def _pld_step(rate: float, noise: float, interval: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        noise,
        sampling_prob=min(1.0, rate + COIN_GRID),
        value_discretization_interval=interval,
        pessimistic_estimate=True,
    )


def _counted(history: History) -> int:
    """Steps in all; ``ValueError`` for more than are ever stated."""
    steps = sum(steps for _, _, steps in history)
    if steps > MOST_STEPS:
        raise ValueError(f"{steps} steps are more than the {MOST_STEPS} that there may be")
    return steps


def _least_interval(history: History, *, copies: int = 1) -> float:
    """The least interval at which no step's losses, out to 12 deviations, take too many points."""
    noise = min((noise for _, noise, _ in history), default=math.inf) / copies
    return (12.0 / noise + 0.5 / noise**2) / _MOST_POINTS


def _pld_steps(rate: float, noise: float, steps: int, interval: float) -> pld.PrivacyLossDistribution:
    step = _pld_step(rate, noise, interval)
    return step.self_compose(steps) if steps > 1 else step


@lru_cache(maxsize=32)
def _pld_kept(history: History, interval: float) -> pld.PrivacyLossDistribution:
    """The composition of a history, kept for what is charged on top of it."""
    last = _pld_steps(*history[-1], interval)
    return last if len(history) == 1 else _pld_kept(history[:-1], interval).compose(last)


@lru_cache(maxsize=65536)
def pld_epsilon(history: History, delta: float, rough: float) -> float:
    """Epsilon by PLD of a history at ``delta``, at most 0.03% above the exact one; ``rough`` is a guess."""
    steps = _counted(history)
    delta_left = delta - FLOAT_DELTA * steps
    if delta < MIN_DELTA or delta_left <= 0 or any(noise < LEAST_NOISE for _, noise, _ in history):
        return math.inf
    if not history:
        return 0.0
    # The grid's excess grows with the steps and the square of the interval, over the square of epsilon. A
    # power of two, so that neighbouring charges share their steps' distributions.
    wanted, least = _FINENESS / math.sqrt(steps), _least_interval(history)
    while True:
        interval = 2.0 ** math.floor(math.log2(max(least, min(wanted * max(rough, 1e-3), 0.02))))
        earlier, last = history[:-1], history[-1]
        whole = _pld_steps(*last, interval)
        if earlier:
            whole = _pld_kept(earlier, interval).compose(whole)
        epsilon = float(whole.get_epsilon_for_delta(delta_left))
        if epsilon >= rough / 2 or rough <= 1e-3 or epsilon == 0.0:
            return epsilon
        rough = epsilon


def fits(recorded: float | None, computed: float) -> bool:
    """Whether a recorded epsilon is the recomputed one."""
    value = math.inf if recorded is None else recorded
    if math.isinf(value) or math.isinf(computed):
        return value == computed
    return abs(value - computed) <= max(TOLERANCE * computed, LEAST)


def held(recorded: float | None, computed: float, *, what: str, entry: int | None) -> Iterator[Problem]:
    """Yield a problem unless a recorded epsilon is the recomputed one."""
    if not fits(recorded, computed):
        reason = f"epsilon by {what}, is recorded as {shown(recorded)}; the history gives {computed:.6g}"
        yield Problem(entry, reason)


def composed(history: History, delta: float) -> float:
    """Epsilon by PLD of a history at ``delta``; ``ValueError`` where the one by RDP is below it."""
    total = sum(
        (rdp_step(rate, noise) * steps for rate, noise, steps in history), start=np.zeros(len(ORDERS))
    )
    rough = rdp_epsilon(total, delta)
    found = pld_epsilon(history, delta, rough)
    if found > CROSS_CHECK * rough and math.isfinite(rough):
        raise ValueError(f"epsilon by PLD, {found:.6g}, is above the one by RDP, {rough:.6g}")
    return found


@lru_cache(maxsize=64)
def of_copies(history: History, delta: float, *, copies: int) -> float:
    """Epsilon by PLD for so many copies of a record, each sampled by itself; ``delta`` is what is left of it.

    A step adds the sum of those that are drawn: a mixture over Binomial(copies, rate) of Gaussians
    (Choquette-Choo and others 2024).
    """
    total = _counted(history)
    delta -= FLOAT_DELTA * total
    if delta < MIN_DELTA or any(noise < LEAST_NOISE for _, noise, _ in history):
        return math.inf
    guess, least = 1.0, _least_interval(history, copies=copies)
    for _ in range(2):
        interval = max(least, _COPIES_FINENESS * guess / math.sqrt(total))
        whole = None
        for rate, noise, steps in history:
            drawn = min(1.0, rate + COIN_GRID)
            weights = [
                math.comb(copies, j) * drawn**j * (1 - drawn) ** (copies - j) for j in range(copies + 1)
            ]
            sizes = [float(j) for j, weight in enumerate(weights) if weight > 0]
            step = pld.from_mixture_gaussian_mechanism(
                noise,
                sizes,
                [weight for weight in weights if weight > 0],
                value_discretization_interval=interval,
            )
            part = step.self_compose(steps) if steps > 1 else step
            whole = part if whole is None else whole.compose(part)
        guess = 0.0 if whole is None else float(whole.get_epsilon_for_delta(delta))
        if guess <= 1e-3:
            break
    return guess
