"""Compute a training's epsilon by privacy loss distributions (PLD), the headline accountant.

The losses of steps (:mod:`fedrec.privacy.accounting.privacy_loss`) are composed by the fast Fourier transform
(Koskela, Jaelkoe and Honkela 2020), separately for adding and removing a record, and the larger epsilon is
taken. The bound holds for the noise that merchants draw, sums of sampled discrete Gaussians, at the noise
multiplier sqrt(V - 9) / Delta, by :mod:`fedrec.privacy.accounting.discrete_noise_lemma`. Without sampling the
closed form of Balle and Wang 2018, "Improving the Gaussian Mechanism for Differential Privacy", theorem 8, is
used instead.

Neighbouring data sets differ by one record added or removed; records are Poisson-sampled. Rates and numbers
of steps must be fixed before the first step. The bound doesn't hold for a server that chooses its next
training after seeing results; :mod:`fedrec.privacy.accounting.privacy_filter` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

from scipy.special import log_ndtr

from fedrec.privacy.accounting.accountant_spec import AccountantSpec
from fedrec.privacy.accounting.discrete_noise_lemma import accounted_rate
from fedrec.privacy.accounting.events import LEAST_MULTIPLIER, MIN_DELTA, Event, Group, check_delta, grouped
from fedrec.privacy.accounting.loss_composition import LossSum, epsilon_of
from fedrec.privacy.accounting.privacy_loss import Losses, Mixture, StepLosses, step_losses, variance_of_loss

FLOAT_DELTA = 1e-14
"""Subtracted from delta for each step: more than the largest floating-point error that was measured."""
# The first interval is a fraction of the standard deviation of a step's loss: _FINENESS, or _COARSE for a
# rough bound. It is halved until epsilon changes by less than the fraction _SETTLED.
_FINENESS, _COARSE = 0.08, 0.5
_SETTLED = 1e-3
_LEAST_INTERVAL = 1e-9
_MAX_GRID = 1 << 22
# The closed form is rounded up by this fraction: more than its float error, less than a grid's excess.
_ROUND_UP = 1e-4

Kind = tuple[Mixture, float, int]
"""The shifts that a record causes in a step, the noise multiplier, and the number of such steps."""


def epsilon_pld(events: Iterable[Event], *, delta: float) -> float:
    """Compute epsilon by PLD: never below the exact epsilon, and at most 1% above it.

    The error of the grid is upward and shrinks with the square of its interval, so the interval is halved
    until the result changes by less than 0.1%. (An epsilon below about 1e-5 may remain further above the
    exact one.) 1e-14 per step is subtracted from ``delta`` for floating-point error. Results are cached.

    Args:
        events: the noised steps and releases.
        delta: the delta that epsilon is taken at.

    Returns:
        Epsilon of all events together; infinite if a sampled step has a noise multiplier below 0.05, or all
        steps without sampling together one below 0.0025, or if nothing is left of ``delta``.

    Raises:
        ConfigError: ``delta`` is out of range.
    """
    check_delta(delta)
    return _epsilon(_kinds(grouped(events)), delta)


def epsilon_coarse(events: Iterable[Event], *, delta: float) -> float:
    """Compute epsilon on a coarse grid: also an upper bound, some percent above :func:`epsilon_pld`.

    Args:
        events: the noised steps and releases.
        delta: the delta that epsilon is taken at.

    Returns:
        Epsilon of all events together; infinite where there is no bound.

    Raises:
        ConfigError: ``delta`` is out of range.
    """
    check_delta(delta)
    kinds = _kinds(grouped(events))
    if not kinds or _whole(kinds) or _without_figure(kinds):
        return _epsilon(kinds, delta)
    left = delta - FLOAT_DELTA * sum(steps for _, _, steps in kinds)
    if left <= 0.0:
        return math.inf
    coarse = _Composition.of(kinds, _first_interval(kinds, _COARSE))
    return coarse.epsilon(left) if coarse.size <= _MAX_GRID else _epsilon(kinds, delta)


def epsilon_of_kinds(kinds: Sequence[Kind], *, delta: float) -> float:
    """Compute epsilon of steps in which a record causes any mixture of shifts.

    Args:
        kinds: the kinds of steps.
        delta: the delta that epsilon is taken at.

    Returns:
        Epsilon of all steps together, as :func:`epsilon_pld`.

    Raises:
        ConfigError: ``delta`` is out of range.
    """
    check_delta(delta)
    return _epsilon(tuple(kinds), delta)


def epsilon_schedule(history: Iterable[Event], step: Event, *, deltas: Sequence[float]) -> tuple[float, ...]:
    """Compute the epsilons of ``history`` plus 0, 1, 2, ... times ``step`` by PLD.

    All are composed on one grid that is fine enough for the first and the last of them. Results are cached.

    Args:
        history: earlier steps and releases.
        step: the event that is added each time.
        deltas: the delta for each number of additions, from 0.

    Returns:
        Epsilon for each of ``deltas``; infinite where a delta is below :data:`MIN_DELTA`, or as
        :func:`epsilon_pld`.
    """
    return _schedule(grouped(history), step, tuple(deltas))


def _kinds(groups: tuple[Group, ...]) -> tuple[Kind, ...]:
    """Turn events into kinds of steps; steps without sampling compose into one Gaussian."""
    inverse, found = 0.0, []
    for rate, sigma, steps in groups:
        accounted = accounted_rate(rate)
        if accounted < 1.0:
            found.append((Mixture.sampled(accounted), sigma, steps))
        else:
            inverse += steps / sigma**2 if sigma > 0.0 else math.inf
    if inverse > 0.0:
        found.append((Mixture.sampled(1.0), 1.0 / math.sqrt(inverse), 1))
    return tuple(found)


def _without_figure(kinds: tuple[Kind, ...]) -> bool:
    """Return whether there is too little noise; a Gaussian of many steps without sampling may have less."""
    return any(
        sigma < (LEAST_MULTIPLIER**2 if mixture.certain else LEAST_MULTIPLIER) for mixture, sigma, _ in kinds
    )


def _whole(kinds: tuple[Kind, ...]) -> bool:
    return len(kinds) == 1 and kinds[0][0] == Mixture.sampled(1.0)


@lru_cache(maxsize=4096)
def _epsilon(kinds: tuple[Kind, ...], delta: float) -> float:
    if not kinds:
        return 0.0
    if _whole(kinds):
        return _epsilon_whole(kinds[0][1], delta)
    if _without_figure(kinds):
        return math.inf
    return _settled(kinds, delta)[0]


def _epsilon_whole(sigma: float, delta: float) -> float:
    """Compute epsilon of one Gaussian mechanism without sampling, exact up to a rounding up of 1e-4.

    With mu = 1 / sigma, delta is Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu) (Balle and Wang 2018,
    theorem 8).

    Args:
        sigma: noise multiplier.
        delta: the delta that epsilon is taken at.

    Returns:
        Epsilon; infinite for almost no noise.
    """
    if sigma < LEAST_MULTIPLIER**2:
        return math.inf
    mu = 1.0 / sigma

    def excess(epsilon: float) -> float:
        near = math.exp(log_ndtr(mu / 2 - epsilon / mu))
        return near - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)) - delta

    if excess(0.0) <= 0.0:
        return 0.0
    # Imported here: it takes a third of a second, and commands that only read a ledger solve nothing.
    from scipy.optimize import brentq

    # The Gaussian tail bound on the privacy loss: delta(high) <= delta.
    high = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    # SciPy has no stubs: pyright takes the tolerance's type from its default, and the root for a pair.
    root = brentq(excess, 0.0, high, xtol=1e-15, rtol=1e-12)  # pyright: ignore[reportArgumentType]
    return cast(float, root) * (1 + _ROUND_UP)


@lru_cache(maxsize=256)
def _settled(kinds: tuple[Kind, ...], delta: float) -> tuple[float, float]:
    """Return epsilon and the interval of the grid that it was computed on."""
    steps = sum(count for _, _, count in kinds)
    left = delta - FLOAT_DELTA * steps
    if left <= 0.0:
        return math.inf, math.inf
    interval = _first_interval(kinds, _FINENESS)
    while (coarse := _Composition.of(kinds, interval)).size > _MAX_GRID:
        # Every grid gives an upper bound.
        interval *= 2
    epsilon = coarse.epsilon(left)
    while interval / 2 >= _LEAST_INTERVAL:
        finer = _Composition.of(kinds, interval / 2)
        if finer.size > _MAX_GRID:
            break
        interval /= 2
        found = finer.epsilon(left)
        change = epsilon - found
        # Both are upper bounds, so the smaller one is kept.
        epsilon = min(epsilon, found)
        if not change > _SETTLED * epsilon:
            break
    return epsilon, interval


def _first_interval(kinds: tuple[Kind, ...], fineness: float) -> float:
    """Return ``fineness`` times the standard deviation of a step's loss.

    The grid adds interval^2 / 6 to the variance of the loss. The result is rounded down to a power of two, so
    that similar histories share their cached steps.
    """
    steps = sum(count for _, _, count in kinds)
    variance = sum(count * variance_of_loss(mixture, sigma) for mixture, sigma, count in kinds) / steps
    interval = max(fineness * math.sqrt(variance), _LEAST_INTERVAL)
    return max(2.0 ** math.floor(math.log2(interval)), _LEAST_INTERVAL)


@lru_cache(maxsize=256)
def _step(mixture: Mixture, sigma: float, interval: float) -> StepLosses:
    return step_losses(mixture, sigma, interval)


@dataclass(frozen=True)
class _Composition:
    """Many composed steps, in both directions, on a grid of one interval."""

    interval: float
    directions: tuple[LossSum, LossSum]

    @staticmethod
    def of(kinds: Sequence[Kind], interval: float) -> _Composition:
        steps = [(_step(mixture, sigma, interval), count) for mixture, sigma, count in kinds]
        removed = LossSum(tuple((step.removed, count) for step, count in steps))
        return _Composition(interval, (removed, LossSum(tuple((step.added, count) for step, count in steps))))

    @property
    def size(self) -> int:
        """Number of points of the largest array that composing needs."""
        steps = [losses.masses.size for direction in self.directions for losses, _ in direction.parts]
        return max(*(direction.window[1] for direction in self.directions), *steps)

    def epsilon(self, delta: float) -> float:
        return self._larger([direction.composed() for direction in self.directions], delta)

    def _larger(self, losses: Sequence[Losses], delta: float) -> float:
        return max(epsilon_of(each, delta=delta, interval=self.interval) for each in losses)

    def growing(self, step: _Composition, deltas: Sequence[float]) -> Iterator[float]:
        """Compute epsilon of this composition plus 1, 2, ... times another.

        Args:
            step: the composition that is added each time.
            deltas: the delta after each addition.

        Yields:
            Epsilon after each addition; infinite where delta isn't above 0.
        """
        pairs = zip(self.directions, step.directions, strict=True)
        growing = [earlier.growing(each, last=len(deltas)) for earlier, each in pairs]
        for delta, *losses in zip(deltas, *growing, strict=True):
            yield self._larger(losses, delta) if delta > 0.0 else math.inf


@lru_cache(maxsize=64)
def _schedule(history: tuple[Group, ...], step: Event, deltas: tuple[float, ...]) -> tuple[float, ...]:
    def after(k: int) -> tuple[Kind, ...]:
        more = replace(step, steps=step.steps * k)
        return _kinds(grouped([*(Event(*group) for group in history), more]))

    def afresh(k: int) -> float:
        return _epsilon(after(k), deltas[k]) if deltas[k] >= MIN_DELTA else math.inf

    last = len(deltas) - 1
    whole = after(last)
    if step.steps == 0 or last == 0 or _without_figure(whole) or accounted_rate(step.sample_rate) == 1.0:
        return tuple(afresh(k) for k in range(len(deltas)))
    usable = [k for k in range(1, len(deltas)) if deltas[k] >= MIN_DELTA]
    if not usable:
        return (afresh(0), *(math.inf for _ in deltas[1:]))
    interval = min(_settled(after(k), deltas[k])[1] for k in (usable[0], usable[-1]))
    before, rate = _kinds(history), accounted_rate(step.sample_rate)
    each = _Composition.of([(Mixture.sampled(rate), step.noise_multiplier, step.steps)], interval)
    done = sum(count for _, _, count in before)
    left = [
        deltas[k] - FLOAT_DELTA * (done + k * step.steps) if deltas[k] >= MIN_DELTA else 0.0
        for k in range(1, usable[-1] + 1)
    ]
    found = (afresh(0), *_Composition.of(before, interval).growing(each, left))
    return (*found, *(math.inf for _ in range(len(deltas) - len(found))))


SPEC = AccountantSpec(
    name="pld",
    version="connect-the-dots at sqrt(V - 9) fedrec/2",
    bound="A step's losses are put on a grid that dominates them, and those above the window are infinite.",
    epsilon=epsilon_pld,
)
