"""Compute the smallest noise multiplier that keeps a training within its epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from fedrec.errors import ConfigError, UnreachableBudgetError
from fedrec.privacy.accounting.events import Event, check_delta
from fedrec.privacy.accounting.pld import epsilon_coarse, epsilon_pld

MIN_NOISE_MULTIPLIER = 0.3
MAX_NOISE_MULTIPLIER = 1e4

_Curve = Callable[[float], float]


@lru_cache(maxsize=1024)
def noise_multiplier_for(
    *, epsilon: float, delta: float, sample_rate: float, steps: int, releases: tuple[Event, ...] = ()
) -> float:
    """Compute the noise multiplier for which the epsilon by PLD is between 99.5% and 100% of a target.

    Args:
        epsilon: the target, above 0.
        delta: the delta that epsilon is taken at, without the betas.
        sample_rate: probability q of each record to be in a step.
        steps: number of noised steps, at least 1.
        releases: single releases that the target covers too.

    Returns:
        The noise multiplier, at least 0.3. Where 0.3 keeps within the target, the epsilon is below 99.5% of
        it.

    Raises:
        ConfigError: an argument is out of range.
        UnreachableBudgetError: even a multiplier of 10000 exceeds ``epsilon``.
    """
    check_delta(delta)
    if not 0.0 < epsilon < math.inf:
        raise ConfigError(f"epsilon: {epsilon} is not a positive number; choose one such as 8.")
    if steps < 1:
        raise ConfigError(f"steps: {steps} must be at least 1 to need noise.")

    def events(log_sigma: float) -> list[Event]:
        return [Event(sample_rate, math.exp(log_sigma), steps), *releases]

    def by_pld(log_sigma: float) -> float:
        return epsilon_pld(events(log_sigma), delta=delta)

    low, high = math.log(MIN_NOISE_MULTIPLIER), math.log(MAX_NOISE_MULTIPLIER)
    if by_pld(low) <= epsilon:
        return MIN_NOISE_MULTIPLIER
    above = by_pld(high)
    if above > epsilon:
        raise UnreachableBudgetError(
            f"epsilon: {epsilon} at delta {delta:.3g} cannot be reached in {steps} steps at sample rate "
            f"{sample_rate}{_releases_in_words(releases, delta)}; allow a larger epsilon, or fewer steps."
        )
    # A coarse grid is cheap and its epsilon slightly above the fine one's, so its solution is a good upper
    # end of the bracket.
    left, right = low, high
    while right - left > 0.01:
        middle = (left + right) / 2
        rough = epsilon_coarse(events(middle), delta=delta)
        left, right = (left, middle) if rough <= epsilon else (middle, right)
    if right < high:
        high, above = right, by_pld(right)
    return _narrow(by_pld, epsilon=epsilon, low=low, high=high, above=above)


def _releases_in_words(releases: tuple[Event, ...], delta: float) -> str:
    if not releases:
        return ""
    what = "the counts of records that are declared" + (" and the site figures" if releases[1:] else "")
    return f", beside {epsilon_pld(releases, delta=delta):.3g} for {what}"


def _narrow(by_pld: _Curve, *, epsilon: float, low: float, high: float, above: float) -> float:
    """Refine the multiplier by the secant method: log epsilon is almost linear in log sigma, of slope -1."""
    goal = math.log(0.9975 * epsilon)
    slope = -1.2
    for _ in range(40):
        if above >= 0.995 * epsilon:
            return math.exp(high)
        guess = high + (goal - math.log(max(above, 1e-300))) / slope
        # Outside the bracket, or at its end, bisect instead.
        if not low < guess < high:
            guess = (low + high) / 2
        value = by_pld(guess)
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
