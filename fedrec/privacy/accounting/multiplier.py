"""The least noise multiplier that keeps a training within its epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from fedrec.errors import ConfigError, UnreachableBudgetError
from fedrec.privacy.accounting.events import Event, check_delta
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.rdp import epsilon_rdp

MIN_NOISE_MULTIPLIER = 0.3
MAX_NOISE_MULTIPLIER = 1e4

_Curve = Callable[[float], float]


@lru_cache(maxsize=1024)
def noise_multiplier_for(
    *, epsilon: float, delta: float, sample_rate: float, steps: int, besides: tuple[Event, ...] = ()
) -> float:
    """Find the noise multiplier with 0.995 * ``epsilon`` <= PLD epsilon <= ``epsilon`` after ``steps`` steps.

    ``besides`` is what else that epsilon covers. An ``epsilon`` so large that 0.3 keeps within it gives 0.3:
    more privacy than was asked for.

    Raises:
        ConfigError: an argument is out of range.
        UnreachableBudgetError: even a multiplier of 10000 doesn't keep within ``epsilon``.

    """
    check_delta(delta)
    if not 0.0 < epsilon < math.inf:
        raise ConfigError(f"epsilon: {epsilon} is not a positive number; choose one such as 8.")
    if steps < 1:
        raise ConfigError(f"steps: {steps} must be at least 1 to need noise.")

    def by_pld(sigma: float) -> float:
        return epsilon_pld([Event(sample_rate, sigma, steps), *besides], delta=delta)

    def by_rdp(sigma: float) -> float:
        return epsilon_rdp([Event(sample_rate, sigma, steps), *besides], delta=delta)

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
                f"{sample_rate}{_of(besides, delta)}; allow a larger epsilon, or fewer steps."
            )
        low, high = high, min(high + 0.2, math.log(MAX_NOISE_MULTIPLIER))
    return _narrow(by_pld, epsilon=epsilon, low=low, high=high, above=above)


def _of(besides: tuple[Event, ...], delta: float) -> str:
    if not besides:
        return ""
    return f", beside {epsilon_pld(besides, delta=delta):.3g} for the counts of records that are declared"


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
