"""Describe noised steps, which accountants compose."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fedrec.errors import ConfigError

MIN_DELTA = 1e-12
"""Smallest delta; below it the float error of composing privacy loss distributions would matter."""
LEAST_MULTIPLIER = 0.05
"""Smallest noise multiplier of a sampled step that gets a finite epsilon. Below it epsilon would be in the
hundreds, and the grid to compute it on grows with the inverse square of the multiplier."""
_MAX_STEPS = 1_000_000

Group = tuple[float, float, int]
"""Sampling rate, noise multiplier, and the number of steps with both."""


@dataclass(frozen=True)
class Event:
    """Several noised steps with one sampling rate and noise multiplier.

    Attributes:
        sample_rate: probability q of each record to be in a step, in (0, 1]; 1 for no sampling.
        noise_multiplier: standard deviation of the noise over the sensitivity; 0 for no noise, and an
            infinite epsilon.
        steps: number of steps.

    Raises:
        ConfigError: the rate is outside (0, 1], the multiplier negative or not finite, or the number of steps
            negative or over 1,000,000.
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
    """Raise ``ConfigError`` unless delta is in [:data:`MIN_DELTA`, 1)."""
    if not MIN_DELTA <= delta < 1.0:
        raise ConfigError(f"delta: {delta} is outside [{MIN_DELTA}, 1); choose one such as 1e-5.")


def grouped(events: Iterable[Event]) -> tuple[Group, ...]:
    """Merge events of equal rate and multiplier, sorted by both; events of 0 steps are left out."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        if event.steps:
            key = (event.sample_rate, event.noise_multiplier)
            steps[key] = steps.get(key, 0) + event.steps
    return tuple((rate, sigma, count) for (rate, sigma), count in sorted(steps.items()))
