"""Epsilon by privacy loss distributions (PLD), from Google's dp-accounting: the headline figure.

Connect-the-dots, pessimistic; it treats the noise as a continuous Gaussian, an approximation for sums of
sampled discrete Gaussians. Where every record is in every step it has a closed form, which is used instead
(Balle and Wang 2018, theorem 8). Neighbouring data sets differ by one record added or removed; records are
sampled by Poisson.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from scipy.optimize import brentq
from scipy.special import log_ndtr

from fedrec.privacy.accounting.events import MIN_DELTA, Event, Group, check_delta, grouped
from fedrec.privacy.accounting.rdp import epsilon_rdp

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

_LEAST_MULTIPLIER = 0.05
_FIRST_INTERVAL = 3e-3
_LAST_INTERVAL = 1e-7
_MAX_GRID = 20_000_000
# Compositions of at most so many points are kept, 8 of them: 16 bytes a point.
_MAX_KEPT = 2_000_000
# The closed form is rounded up by this, more than its float error and less than a grid's excess.
_ROUND_UP = 1e-4


def epsilon_pld(events: Iterable[Event], *, delta: float) -> float:
    """Epsilon of all ``events`` together at ``delta``, by PLD: never below the exact one, at most 1% above.

    The discretisation errs upward by an amount that shrinks with the square of the interval, so the
    interval is divided by 3 until that changes the result by less than 0.2%. (An epsilon below about
    1e-4 may stay further above: the finest interval is 1e-7.) Results are cached.

    Infinite if a step has no noise, or a noise multiplier below 0.05: no figure worth the name comes out.
    Raises :class:`ConfigError` when ``delta`` is out of range.
    """
    check_delta(delta)
    groups = grouped(events)
    if not groups:
        return 0.0
    if _without_figure(groups):
        return math.inf
    return _settled(groups, None, delta)[0]


def epsilon_schedule(history: Iterable[Event], step: Event, *, deltas: Sequence[float]) -> tuple[float, ...]:
    """Epsilon by PLD of ``history`` and k times ``step``, at ``deltas[k]``, for k = 0, 1, ...

    One composition for each k, on a grid fine enough for the first and for the last, so a step taken later
    costs a look-up. Infinite where a delta is below :data:`MIN_DELTA`, or as :func:`epsilon_pld`. Cached, and
    so is the composed history: another step on top of the same one costs no composition of it.
    """
    return _schedule(grouped(history), step, tuple(deltas))


def _without_figure(groups: tuple[Group, ...]) -> bool:
    return any(sigma < _LEAST_MULTIPLIER for _, sigma, _ in groups)


def _every_record(groups: tuple[Group, ...]) -> bool:
    return all(rate == 1.0 for rate, _, _ in groups)


def _epsilon_whole(groups: tuple[Group, ...], delta: float) -> float:
    """Epsilon of Gaussian mechanisms without sampling, exact but for a relative 1e-4 upward.

    They compose to one of sensitivity over noise mu, mu^2 the sum of steps / sigma^2, whose delta is
    Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu) (Balle and Wang 2018, theorem 8).
    """
    mu = math.sqrt(sum(steps / sigma**2 for _, sigma, steps in groups))

    def excess(epsilon: float) -> float:
        near = math.exp(log_ndtr(mu / 2 - epsilon / mu))
        return near - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)) - delta

    if excess(0.0) <= 0.0:
        return 0.0
    # The Gaussian tail bound on the privacy loss: delta(high) <= delta.
    high = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    # SciPy has no stubs: pyright takes the tolerance's type from its default, and the root for a pair.
    root = brentq(excess, 0.0, high, xtol=1e-15, rtol=1e-12)  # pyright: ignore[reportArgumentType]
    return cast(float, root) * (1 + _ROUND_UP)


def _grid_size(groups: tuple[Group, ...], interval: float) -> float:
    """Estimate the points of the composed distribution, to keep memory bounded."""
    # A step's loss reaches to about 12 standard deviations of the noise; composed losses concentrate.
    width = sum((1.0 + 12.0 * sigma) / sigma**2 * math.sqrt(steps) for _, sigma, steps in groups)
    return width / interval


@lru_cache(maxsize=4096)
def _settled(history: tuple[Group, ...], step: Group | None, delta: float) -> tuple[float, float]:
    """Return epsilon of a history and a step of its own, and the interval of the grid that it settled at."""
    groups = history if step is None else (*history, step)
    # A coarse grid does for a large epsilon, whose distribution is wide.
    whole = _every_record(groups)
    rough = (
        _epsilon_whole(groups, delta)
        if whole
        else epsilon_rdp((Event(*group) for group in groups), delta=delta)
    )
    interval = min(max(_FIRST_INTERVAL, 1e-3 * rough), 0.1)
    if whole:
        return rough, interval
    epsilon = _composed(history, step, interval).get_epsilon_for_delta(delta)
    while interval / 3 >= _LAST_INTERVAL and _grid_size(groups, interval / 3) <= _MAX_GRID:
        interval /= 3
        finer = _composed(history, step, interval).get_epsilon_for_delta(delta)
        change = abs(epsilon - finer)
        # Each is an upper bound, so the smaller may be kept.
        epsilon = min(epsilon, finer)
        if change <= 0.002 * epsilon:
            break
    return float(epsilon), interval


@lru_cache(maxsize=128)
def _step_distribution(rate: float, sigma: float, interval: float) -> PrivacyLossDistribution:
    # Imported here: it takes a second, and most commands compose nothing.
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    return from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=interval, pessimistic_estimate=True
    )


def _composed(history: tuple[Group, ...], step: Group | None, interval: float) -> PrivacyLossDistribution:
    """Compose a history, which is kept if it isn't too large, and a step on top of it."""
    kept = _grid_size(history, interval) <= _MAX_KEPT
    composed = (_kept_history if kept else _compose)(history, interval)
    return composed if step is None else composed.compose(_repeated(step, interval))


def _compose(groups: tuple[Group, ...], interval: float) -> PrivacyLossDistribution:
    from dp_accounting.pld.privacy_loss_distribution import identity

    composed = identity(interval)
    for group in groups:
        composed = composed.compose(_repeated(group, interval))
    return composed


_kept_history = lru_cache(maxsize=8)(_compose)


def _repeated(group: Group, interval: float) -> PrivacyLossDistribution:
    rate, sigma, steps = group
    step = _step_distribution(rate, sigma, interval)
    return step.self_compose(steps) if steps > 1 else step


@lru_cache(maxsize=64)
def _schedule(history: tuple[Group, ...], step: Event, deltas: tuple[float, ...]) -> tuple[float, ...]:
    after = [
        grouped([*(Event(*group) for group in history), replace(step, steps=step.steps * k)])
        for k in range(len(deltas))
    ]
    if not after[-1] or _without_figure(after[-1]) or _every_record(after[-1]):
        return tuple(
            epsilon_pld((Event(*group) for group in groups), delta=delta) if delta >= MIN_DELTA else math.inf
            for groups, delta in zip(after, deltas, strict=True)
        )
    usable = [k for k, delta in enumerate(deltas) if delta >= MIN_DELTA and after[k]]
    if not usable:
        return (math.inf,) * len(deltas)
    kind = (step.sample_rate, step.noise_multiplier)
    interval = min(
        _settled(history, (*kind, step.steps * k) if k else None, deltas[k])[1]
        for k in (usable[0], usable[-1])
    )
    composed = _composed(history, None, interval)
    each = _repeated((*kind, step.steps), interval)
    epsilons: list[float] = []
    for k, delta in enumerate(deltas):
        if k:
            composed = composed.compose(each)
        if delta < MIN_DELTA:
            epsilons.append(math.inf)
        else:
            epsilons.append(float(composed.get_epsilon_for_delta(delta)) if after[k] else 0.0)
    return tuple(epsilons)
