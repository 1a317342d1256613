"""Epsilon from the raw history alone, by privacy loss distributions (PLD) and, as a cross-check, by RDP.

Noise multipliers in a history are sqrt(V - 9) / Delta, at which a sum of discrete Gaussians of variance V
hides no less than a continuous Gaussian (terms.py follows them). Sampling rates count 2**-52 more, the grid
of the coins.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld

from .ledger import cost, costs_of
from .outcome import Problem, shown

Kind = tuple[float, float]
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
_FINENESS = 8e-3
_RATIO = 1.7
"""PLD is composed anew where the steps of a kind have grown by this; it is interpolated between."""


@lru_cache(maxsize=256)
def rdp_step(rate: float, noise: float) -> np.ndarray:
    """Renyi divergences of one step at ``ORDERS``: log E[ratio^a] / (a - 1), a record removed."""
    rate = min(1.0, rate + COIN_GRID)
    if noise == 0.0:
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
    delta_left = delta - FLOAT_DELTA * sum(steps for _, _, steps in history)
    if delta < MIN_DELTA or delta_left <= 0 or any(noise < 0.05 for _, noise, _ in history):
        return math.inf
    if not history:
        return 0.0
    # The grid's excess grows with the steps and the square of the interval, over the square of epsilon. A
    # power of two, so that neighbouring charges share their steps' distributions.
    wanted = _FINENESS / math.sqrt(sum(steps for _, _, steps in history))
    while True:
        interval = 2.0 ** math.floor(math.log2(min(wanted * max(rough, 1e-3), 0.02)))
        earlier, last = history[:-1], history[-1]
        whole = _pld_steps(*last, interval)
        if earlier:
            whole = _pld_kept(earlier, interval).compose(whole)
        epsilon = float(whole.get_epsilon_for_delta(delta_left))
        if epsilon >= rough / 2 or rough <= 1e-3 or epsilon == 0.0:
            return epsilon
        rough = epsilon


@dataclass
class _Totals:
    steps: dict[Kind, int] = field(default_factory=dict)
    rdp: np.ndarray = field(default_factory=lambda: np.zeros(len(ORDERS)))
    betas: float = 0.0

    def add(self, charge: Mapping[str, Any], noise: str) -> None:
        kind = (float(charge["sample_rate"]), float(charge[noise]))
        # The kind charged last comes last, so that the composition of the others is kept.
        self.steps[kind] = self.steps.pop(kind, 0) + charge["steps"]
        self.rdp = self.rdp + rdp_step(*kind) * charge["steps"]
        self.betas += charge["beta"] * charge["steps"]

    def history(self) -> History:
        return tuple((rate, noise, steps) for (rate, noise), steps in self.steps.items())

    def epsilon(self, *, delta: float) -> float:
        left = delta - self.betas
        return pld_epsilon(self.history(), left, rdp_epsilon(self.rdp, left))


def total(entries: Iterable[Mapping[str, Any]], noise: str = "guaranteed_noise_multiplier") -> _Totals:
    """Add up all charges and counts, in the server's view or by another of their noise multipliers."""
    totals = _Totals()
    for entry in costs_of(entries):
        totals.add(cost(entry), noise)
    return totals


class _Point(NamedTuple):
    """An epsilon by PLD that is recorded before or after an entry, and what it is to follow from."""

    entry: int
    moment: str
    recorded: float | None
    whole_delta: float
    delta: float
    rough: float
    history: History

    @property
    def steps(self) -> int:
        return self.history[-1][2] if self.history else 0

    def exact(self) -> float:
        return pld_epsilon(self.history, self.delta, self.rough)


def epsilons(entries: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    """Recompute every epsilon."""
    totals = _Totals()
    points: list[_Point] = []
    for entry in costs_of(entries):
        recorded, number = entry["epsilons"], entry["sequence"]
        for moment in ("before", "after"):
            if moment == "after":
                totals.add(cost(entry), "guaranteed_noise_multiplier")
            left = recorded["delta"] - totals.betas
            rough = rdp_epsilon(totals.rdp, left)
            yield from held(recorded[f"rdp_{moment}"], rough, what=f"RDP, {moment} it", entry=number)
            proved = recorded[f"pld_{moment}"]
            if math.isfinite(rough) and (proved is None or proved > 1.01 * rough):
                yield Problem(number, f"its epsilon by PLD, {moment} it, is above the one by RDP")
            points.append(
                _Point(
                    number,
                    moment,
                    recorded[f"pld_{moment}"],
                    recorded["delta"],
                    left,
                    rough,
                    totals.history(),
                )
            )
    for run in _runs(points):
        yield from _hold_run(run)


def _fits(recorded: float | None, computed: float) -> bool:
    value = math.inf if recorded is None else recorded
    if math.isinf(value) or math.isinf(computed):
        return value == computed
    return abs(value - computed) <= max(TOLERANCE * computed, LEAST)


def held(recorded: float | None, computed: float, *, what: str, entry: int | None) -> Iterator[Problem]:
    """Yield a problem unless a recorded epsilon is the recomputed one."""
    if not _fits(recorded, computed):
        reason = f"epsilon by {what}, is recorded as {shown(recorded)}; the history gives {computed:.6g}"
        yield Problem(entry, reason)


def _hold_run(run: Sequence[_Point]) -> Iterator[Problem]:
    """Check PLD's figures in a run of charges of one kind: at knots composed anew, between them by a curve.

    A figure that is off the curve is composed anew too, so that the curve spares time and judges nothing.
    """
    by_steps = {point.steps: point for point in run}
    counts = sorted(by_steps)
    knots = [0]
    while knots[-1] < len(counts) - 1:
        wanted = bisect_left(counts, _RATIO * counts[knots[-1]])
        knots.append(min(max(wanted, knots[-1] + 1), len(counts) - 1))
    chosen = [counts[knot] for knot in knots]
    known = {steps: by_steps[steps].exact() for steps in chosen}
    for point in run:
        if point.steps in known or not _fits(point.recorded, _between(chosen, known, point.steps)):
            what = f"PLD, {point.moment} it"
            yield from held(point.recorded, point.exact(), what=what, entry=point.entry)


def _between(chosen: Sequence[int], known: Mapping[int, float], steps: int) -> float:
    """Interpolate epsilon at ``steps`` by a cubic through four knots, in logarithms; NaN if it can't be."""
    first = max(0, min(bisect_left(chosen, steps) - 2, len(chosen) - 4))
    near = [at for at in chosen[first : first + 4] if at > 0]
    if len(near) < 4 or not all(0 < known[at] < math.inf for at in near):
        return math.nan
    total, here = 0.0, math.log(steps)
    for at in near:
        weight = 1.0
        for other in near:
            if other != at:
                weight *= (here - math.log(other)) / (math.log(at) - math.log(other))
        total += weight * math.log(known[at])
    return math.exp(total)


def _runs(points: Iterable[_Point]) -> Iterator[list[_Point]]:
    """Cut the points into runs in which only the number of steps of the last kind grows, at one delta."""
    run: list[_Point] = []
    previous: tuple[Any, ...] | None = None
    for point in points:
        last = point.history[-1][:2] if point.history else None
        shape = (point.history[:-1], last, point.whole_delta)
        if run and shape != previous:
            yield run
            run = []
        run.append(point)
        previous = shape
    if run:
        yield run
