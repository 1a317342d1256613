"""Epsilon from the raw history alone, by integer-order RDP and by privacy loss distributions (PLD)."""

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
ORDERS = (*range(2, 257), 320, 384, 512, 768, 1024)
_ORDERS = np.asarray(ORDERS, dtype=np.float64)
_LOG_FACTORIALS = np.asarray([math.lgamma(k + 1) for k in range(ORDERS[-1] + 1)])
TOLERANCE, LEAST = 1e-3, 1e-5
"""How far a recorded epsilon may lie from the recomputed one: relative, or this much where that is more."""
MIN_DELTA = 1e-12
_FINENESS = 8e-3
_RATIO = 1.7
"""PLD is composed anew where the steps of a kind have grown by this; it is interpolated between."""


@lru_cache(maxsize=256)
def rdp_step(rate: float, noise: float) -> np.ndarray:
    """Renyi divergences of one step at ``ORDERS`` (Mironov, Talwar and Zhang 2019, section 3.3).

    At order a: log(sum over k of C(a, k) (1 - rate)^(a - k) rate^k exp(k (k - 1) / (2 noise^2))) / (a - 1).
    """
    if noise == 0.0:
        return np.full(len(ORDERS), math.inf)
    if rate == 1.0:
        return _ORDERS / (2 * noise**2)
    found = []
    for order in ORDERS:
        k = np.arange(order + 1)
        terms = _LOG_FACTORIALS[order] - _LOG_FACTORIALS[k] - _LOG_FACTORIALS[order - k]
        terms = terms + k * math.log(rate) + (order - k) * math.log1p(-rate) + k * (k - 1) / (2 * noise**2)
        largest = terms.max()
        found.append((largest + math.log(np.exp(terms - largest).sum())) / (order - 1))
    return np.maximum(found, 0.0)


def rdp_epsilon(rdp: np.ndarray, delta: float) -> float:
    """Epsilon from Renyi divergences at ``ORDERS`` (Canonne, Kamath and Steinke 2020, proposition 12)."""
    if delta < MIN_DELTA:
        return math.inf
    if not np.any(rdp):
        return 0.0
    return max(0.0, float(np.min(rdp + np.log1p(-1 / _ORDERS) - np.log(delta * _ORDERS) / (_ORDERS - 1))))


@lru_cache(maxsize=64)
def _pld_step(rate: float, noise: float, interval: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=interval, pessimistic_estimate=True
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
    if delta < MIN_DELTA or any(noise < 0.05 for _, noise, _ in history):
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
        epsilon = float(whole.get_epsilon_for_delta(delta))
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
