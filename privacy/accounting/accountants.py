"""What a history of noised steps costs: epsilon by privacy loss distributions (PLD) and by Renyi (RDP).

Both take neighbouring data sets to differ by one record added or removed, records sampled by Poisson.

- PLD (Google's dp-accounting, connect-the-dots, pessimistic) treats the noise as a continuous
  Gaussian: the headline figure, an approximation for sums of discrete Gaussians. Where every record
  is in every step it has a closed form, which is used instead (Balle and Wang 2018, theorem 8).
- RDP of integer orders holds for the discrete Gaussian as well, since its Renyi divergence obeys the
  Gaussian's bound (Canonne, Kamath and Steinke 2020, proposition 5) and the integer-order formula needs
  nothing else (Mironov, Talwar and Zhang 2019, section 3.3; Zhu and Wang 2019): the proved figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaln, log_ndtr, logsumexp

from fedrec.errors import ConfigError, UnreachableBudgetError

ORDERS: NDArray[np.int64] = np.array([*range(2, 257), 320, 384, 512, 768, 1024], dtype=np.int64)
"""Integer Renyi orders at which RDP is kept; an RDP vector has this shape."""
MIN_DELTA = 1e-12
"""Smallest delta: below it the float error of composing privacy loss distributions would count."""
MIN_NOISE_MULTIPLIER = 0.3
MAX_NOISE_MULTIPLIER = 1e4
_MAX_STEPS = 1_000_000
_LEAST_MULTIPLIER = 0.05
_FIRST_INTERVAL = 3e-3
_LAST_INTERVAL = 1e-7
_MAX_GRID = 20_000_000
# Compositions of at most so many points are kept, 8 of them: 16 bytes a point.
_MAX_KEPT = 2_000_000
# The closed form is rounded up by this, more than its float error and less than a grid's excess.
_ROUND_UP = 1e-4

Group = tuple[float, float, int]
_Curve = Callable[[float], float]


@dataclass(frozen=True)
class Event:
    """``steps`` noised steps of one kind.

    ``noise_multiplier`` is the noise's standard deviation over the sensitivity; 0 means no noise, and
    an infinite epsilon.

    Raises:
        ConfigError: the rate is outside (0, 1], the multiplier negative or not finite, or steps negative.

    """

    sample_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if not 0.0 < self.sample_rate <= 1.0:
            raise ConfigError(f"sample rate: {self.sample_rate} is outside (0, 1].")
        if not 0.0 <= self.noise_multiplier < math.inf:
            raise ConfigError(f"noise multiplier: {self.noise_multiplier} is not a finite number from 0 up.")
        if not 0 <= self.steps <= _MAX_STEPS:
            raise ConfigError(f"steps: {self.steps} is outside 0 to {_MAX_STEPS}.")


@lru_cache(maxsize=1)
def accountant_versions() -> str:
    """Name the accountants with their versions, as ledgers and reports record them."""
    return f"pld dp-accounting {version('dp-accounting')}; rdp integer orders 2-1024 fedrec/1"


def _check_delta(delta: float) -> None:
    if not MIN_DELTA <= delta < 1.0:
        raise ConfigError(f"delta: {delta} is outside [{MIN_DELTA}, 1); choose one such as 1e-5.")


def _grouped(events: Iterable[Event]) -> tuple[Group, ...]:
    """Merge events of one (rate, multiplier), in sorted order, without those of no steps."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        if event.steps:
            key = (event.sample_rate, event.noise_multiplier)
            steps[key] = steps.get(key, 0) + event.steps
    return tuple((rate, sigma, count) for (rate, sigma), count in sorted(steps.items()))


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
            rdp = logsumexp(np.where(k <= a, terms, -np.inf), axis=1) / (orders - 1)
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
    _check_delta(delta)
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


def epsilon_pld(events: Iterable[Event], *, delta: float) -> float:
    """Epsilon of all ``events`` together at ``delta``, by PLD: never below the exact one, at most 1% above.

    The discretisation errs upward by an amount that shrinks with the square of the interval, so the
    interval is divided by 3 until that changes the result by less than 0.2%. (An epsilon below about
    1e-4 may stay further above: the finest interval is 1e-7.) Results are cached.

    Infinite if a step has no noise, or a noise multiplier below 0.05: no figure worth the name comes out.
    Raises :class:`ConfigError` when ``delta`` is out of range.
    """
    _check_delta(delta)
    groups = _grouped(events)
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
    return _schedule(_grouped(history), step, tuple(deltas))


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
    return float(brentq(excess, 0.0, high, xtol=1e-15, rtol=1e-12)) * (1 + _ROUND_UP)


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
def _step_distribution(
    rate: float, sigma: float, interval: float
) -> privacy_loss_distribution.PrivacyLossDistribution:
    return privacy_loss_distribution.from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=interval, pessimistic_estimate=True
    )


def _composed(
    history: tuple[Group, ...], step: Group | None, interval: float
) -> privacy_loss_distribution.PrivacyLossDistribution:
    """Compose a history, which is kept if it isn't too large, and a step on top of it."""
    kept = _grid_size(history, interval) <= _MAX_KEPT
    composed = (_kept_history if kept else _compose)(history, interval)
    return composed if step is None else composed.compose(_repeated(step, interval))


def _compose(groups: tuple[Group, ...], interval: float) -> privacy_loss_distribution.PrivacyLossDistribution:
    composed = privacy_loss_distribution.identity(interval)
    for group in groups:
        composed = composed.compose(_repeated(group, interval))
    return composed


_kept_history = lru_cache(maxsize=8)(_compose)


def _repeated(group: Group, interval: float) -> privacy_loss_distribution.PrivacyLossDistribution:
    rate, sigma, steps = group
    step = _step_distribution(rate, sigma, interval)
    return step.self_compose(steps) if steps > 1 else step


@lru_cache(maxsize=64)
def _schedule(history: tuple[Group, ...], step: Event, deltas: tuple[float, ...]) -> tuple[float, ...]:
    after = [
        _grouped([*(Event(*group) for group in history), replace(step, steps=step.steps * k)])
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


@lru_cache(maxsize=1024)
def noise_multiplier_for(*, epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Find the noise multiplier with 0.995 * ``epsilon`` <= PLD epsilon <= ``epsilon`` after ``steps`` steps.

    An ``epsilon`` so large that 0.3 keeps within it gives 0.3: more privacy than was asked for.

    Raises:
        ConfigError: an argument is out of range.
        UnreachableBudgetError: even a multiplier of 10000 doesn't keep within ``epsilon``.

    """
    _check_delta(delta)
    if not 0.0 < epsilon < math.inf:
        raise ConfigError(f"epsilon: {epsilon} is not a positive number; choose one such as 8.")
    if steps < 1:
        raise ConfigError(f"steps: {steps} must be at least 1 to need noise.")

    def by_pld(sigma: float) -> float:
        return epsilon_pld([Event(sample_rate, sigma, steps)], delta=delta)

    def by_rdp(sigma: float) -> float:
        return epsilon_rdp([Event(sample_rate, sigma, steps)], delta=delta)

    low, high = math.log(MIN_NOISE_MULTIPLIER), math.log(MAX_NOISE_MULTIPLIER)
    if by_rdp(MIN_NOISE_MULTIPLIER) <= epsilon:
        return MIN_NOISE_MULTIPLIER
    # RDP is cheap and a little above PLD, so its answer is a good upper end of the bracket.
    left, right = low, high
    for _ in range(25):
        middle = (left + right) / 2
        left, right = (left, middle) if by_rdp(math.exp(middle)) <= epsilon else (middle, right)
    high = right
    while (above := by_pld(math.exp(high))) > epsilon:
        if high >= math.log(MAX_NOISE_MULTIPLIER):
            raise UnreachableBudgetError(
                f"epsilon: {epsilon} at delta {delta:.3g} cannot be reached in {steps} steps at sample rate "
                f"{sample_rate}; allow a larger epsilon, or fewer steps."
            )
        low, high = high, min(high + 0.2, math.log(MAX_NOISE_MULTIPLIER))
    return _narrow(by_pld, epsilon=epsilon, low=low, high=high, above=above)


def _narrow(by_pld: _Curve, *, epsilon: float, low: float, high: float, above: float) -> float:
    """Close in on the multiplier; log epsilon is close to a line in log sigma of slope about -1."""
    goal = math.log(0.9975 * epsilon)
    slope = -1.2
    for _ in range(40):
        if above >= 0.995 * epsilon:
            return math.exp(high)
        guess = high + (goal - math.log(max(above, 1e-300))) / slope
        # Outside the bracket, or against its end, bisection is the safe step.
        if not low < guess < high:
            guess = (low + high) / 2
        value = by_pld(math.exp(guess))
        if value > epsilon:
            low = guess
            slope = (math.log(value) - math.log(max(above, 1e-300))) / (guess - high)
            continue
        if value > above:
            slope = (math.log(value) - math.log(max(above, 1e-300))) / (guess - high)
        if guess - low < 1e-9 and value <= epsilon:
            return math.exp(guess)
        high, above = guess, value
    return math.exp(high)
