"""Noised steps, which accountants compose."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fedrec.errors import ConfigError

MIN_DELTA = 1e-12
"""Smallest delta: below it the float error of composing privacy loss distributions would count."""
LEAST_MULTIPLIER = 0.05
"""Below it a sampled step has no figure, which is infinite: it would be in the hundreds, on a grid whose size
grows with the square of one over the multiplier."""
_MAX_STEPS = 1_000_000

Group = tuple[float, float, int]
"""Sampling rate, noise multiplier, and how many steps had them."""


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


def check_delta(delta: float) -> None:
    """Raise ``ConfigError`` for a delta below :data:`MIN_DELTA`, or of 1 and more."""
    if not MIN_DELTA <= delta < 1.0:
        raise ConfigError(f"delta: {delta} is outside [{MIN_DELTA}, 1); choose one such as 1e-5.")


def grouped(events: Iterable[Event]) -> tuple[Group, ...]:
    """Merge events of one (rate, multiplier), in sorted order, without those of no steps."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        if event.steps:
            key = (event.sample_rate, event.noise_multiplier)
            steps[key] = steps.get(key, 0) + event.steps
    return tuple((rate, sigma, count) for (rate, sigma), count in sorted(steps.items()))
