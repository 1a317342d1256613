"""Estimate site figures from their opened sum: counts by class, accuracy and mean loss, with intervals.

Nothing is clamped or rounded to what is possible: an estimate may be negative, and is unbiased for that. The
noise is known exactly, since the sum has the share of each contributor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.dp.figures_noise import CORRECT_WEIGHT, COUNT_WEIGHT, LOSS_WEIGHT, largest_loss

CONFIDENCE: Final = 0.95
_ROUNDING_VARIANCE: Final = 0.25
"""Largest variance of the rounding of one merchant's number to the grid, in grid units squared."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; an end is None where the interval has none.

    Attributes:
        value: the estimate, as it comes out of the sum; None where there is none.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class FiguresNoise:
    """How far the figures of so many contributors are off, as standard deviations, and what that hides.

    Attributes:
        classes: number of classes.
        count: of a class's count, in units.
        correct: of the number of units that the model is right about.
        loss: of the sum of losses.
    """

    classes: int
    count: float
    correct: float
    loss: float

    @classmethod
    def of(cls, noise: NoisePlan, *, contributors: int) -> FiguresNoise:
        """Return the noise of an opened sum.

        Args:
            noise: the noise plan of the round.
            contributors: number of merchants in the sum; each has added its share.

        Returns:
            The standard deviations.
        """
        classes = noise.dimension - 2
        deviation = math.sqrt(contributors * (noise.share_std**2 + _ROUNDING_VARIANCE)) / noise.scale
        return cls(
            classes=classes,
            count=deviation / COUNT_WEIGHT,
            correct=deviation / CORRECT_WEIGHT,
            loss=deviation / LOSS_WEIGHT * largest_loss(classes),
        )

    @property
    def records(self) -> float:
        """Standard deviation of the number of all units, the sum of the classes' counts."""
        return self.count * math.sqrt(self.classes)

    @property
    def threshold(self) -> float:
        """The count above which a class is told from one that nobody has.

        If nobody had any class, a count would be above it by chance in 5% of all rounds at most, for all
        classes together (Bonferroni).
        """
        return _quantile((1 - CONFIDENCE) / self.classes) * self.count

    @property
    def detectable(self) -> int:
        """The least number of units that is above :attr:`threshold` with a probability of 95%."""
        return math.ceil(self.threshold + _quantile(1 - CONFIDENCE) * self.count)

    def counts(self, counted: Sequence[float]) -> tuple[Estimate, ...]:
        """Return the classes' counts with intervals that hold for all of them together, at 95%."""
        reach = _quantile((1 - CONFIDENCE) / (2 * self.classes)) * self.count
        return tuple(Estimate(value, value - reach, value + reach) for value in counted)


def scaled(values: Sequence[int], noise: NoisePlan) -> tuple[tuple[float, ...], float, float]:
    """Return the opened sum in units: counts by class, the number of correct ones, and the sum of losses.

    Args:
        values: the opened sum, in grid units.
        noise: the noise plan of the round.

    Returns:
        The three parts.
    """
    *counts, correct, loss = (value / noise.scale for value in values)
    bound = largest_loss(len(counts))
    return (
        tuple(count / COUNT_WEIGHT for count in counts),
        correct / CORRECT_WEIGHT,
        loss / LOSS_WEIGHT * bound,
    )


def interval(value: float, deviation: float) -> Estimate:
    """Return an estimate with its 95% interval.

    Args:
        value: the estimate.
        deviation: its standard deviation.

    Returns:
        The estimate.
    """
    reach = _quantile((1 - CONFIDENCE) / 2) * deviation
    return Estimate(value, value - reach, value + reach)


def ratio(above: float, below: float, *, above_deviation: float, below_deviation: float) -> Estimate:
    """Estimate the ratio of two figures with independent noise, by Fieller's interval at 95%.

    The interval is that of all ratios r for which ``above - r * below`` is no further from 0 than its noise
    explains (Fieller 1954).

    Args:
        above: the numerator's estimate.
        below: the denominator's estimate.
        above_deviation: standard deviation of the numerator.
        below_deviation: standard deviation of the denominator.

    Returns:
        The estimate; it has no interval where the denominator isn't told from 0.
    """
    z = _quantile((1 - CONFIDENCE) / 2)
    square = below**2 - (z * below_deviation) ** 2
    value = above / below if below else None
    if square <= 0:
        return Estimate(value, None, None)
    middle = above * below
    reach = math.sqrt(max(0.0, middle**2 - square * (above**2 - (z * above_deviation) ** 2)))
    return Estimate(value, (middle - reach) / square, (middle + reach) / square)


def _quantile(beyond: float) -> float:
    """Return how many standard deviations a normal variable exceeds with a probability."""
    return NormalDist().inv_cdf(1 - beyond)
