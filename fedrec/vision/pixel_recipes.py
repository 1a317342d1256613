"""Choose the settings of networks on pictures that are trained from scratch, from public numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fedrec.vision.training_recipes import PublicNumbers, TrainingDefaults

NEARLY_ALL: Final = 0.9
"""Part of the longest possible step with which a pixel model's sampling rate is large enough."""
RATE_RATIO: Final = 1.25
"""Ratio of two sampling rates that a pixel model's recipe tries one after the other."""


@dataclass(frozen=True, kw_only=True)
class PixelRecipe:
    """Chooses settings for a network on pictures that is trained from scratch.

    T steps of noise multiplier sigma leave noise of standard deviation lr C sqrt(T) sigma / (q N) in every
    parameter. As a head's step does in a score, the step sets that to a constant, which depends on the
    network alone. A step is no longer than what is stable.

    The steps together then move the parameters by at most the constant times the reach q N sqrt(T) / sigma.
    Of an equal number of gradients, fewer and larger batches have the larger reach, and each step is a round.
    So there are only as many steps as stability asks for, but not fewer than the network needs: networks
    that are not linear measured worse with few, long steps of equal reach.

    At a given T the reach grows with q, up to that of full batches: mu N, with the budget's Gaussian-DP
    parameter mu. The sampling rate is the smallest with nearly the step that the cap on computation allows.
    The steps take a record as often as ``passes`` on average, at least. What a small batch adds by chance to
    the sum of clipped gradients matters little beside: its length is about sqrt(q N), that of the noise
    sigma sqrt(d) for d parameters, which is many times more.

    Attributes:
        least: fewest steps.
        most: most steps.
        passes: how often the steps take a record on average, at least.
        gradients: the cap on computation: gradients of records in all steps, at most, unless ``passes`` asks
            for more.
        clip: C.
        noise: the standard deviation that all steps leave in a parameter.
        longest: the longest step, learning rate times clip over (1 - momentum).
        momentum: Nesterov's.
        ema: decay per round of the moving average of the parameters.
    """

    least: int
    most: int
    passes: int
    gradients: int
    clip: float
    noise: float
    longest: float
    momentum: float
    ema: float

    def __call__(self, numbers: PublicNumbers) -> TrainingDefaults:
        """Return the settings; those that the user gave are kept, and the others fit them."""
        rounds = self._rounds(numbers) if numbers.rounds is None else numbers.rounds
        rate = self._rate(numbers, rounds) if numbers.sample_rate is None else numbers.sample_rate
        clip = self.clip if numbers.clip is None else numbers.clip
        momentum = self.momentum if numbers.momentum is None else numbers.momentum
        return TrainingDefaults(
            rounds=rounds,
            sample_rate=rate,
            clip=clip,
            learning_rate=min(self._step(numbers, rate, rounds), self.longest) * (1 - momentum) / clip,
            momentum=momentum,
            ema=self.ema,
            nesterov=momentum > 0,
        )

    def fewest_steps(self, rounds: int | None) -> tuple[int, float]:
        """Return the fewest steps, or the user's, and the smallest sampling rate that any budget gets."""
        return (
            (self.least, self._least_rate(self.most))
            if rounds is None
            else (rounds, self._least_rate(rounds))
        )

    def _least_rate(self, rounds: int) -> float:
        """Return the rate of the passes; a try of few rounds takes no more of them."""
        return min(self.passes / max(rounds, self.least), 1.0)

    def _largest_rate(self, numbers: PublicNumbers, rounds: int) -> float:
        """Return the user's sampling rate, or that of the most computation."""
        if numbers.sample_rate is not None:
            return numbers.sample_rate
        return min(max(self.gradients / (numbers.records * rounds), self._least_rate(rounds)), 1.0)

    def _rounds(self, numbers: PublicNumbers) -> int:
        """Return the fewest steps none of which is longer than what is stable, at the largest rate."""
        low, high = self.least, self.most
        if numbers.sample_rate is not None:
            low = math.ceil(min(max(low, self.passes / numbers.sample_rate), high))
        while low < high:
            middle = (low + high) // 2
            if self._step(numbers, self._largest_rate(numbers, middle), middle) > self.longest:
                low = middle + 1
            else:
                high = middle
        return low

    def _rate(self, numbers: PublicNumbers, rounds: int) -> float:
        """Return the smallest of some sampling rates with nearly the step of the largest."""
        rate, largest = self._least_rate(rounds), self._largest_rate(numbers, rounds)
        enough = min(NEARLY_ALL * self._step(numbers, largest, rounds), self.longest)
        while rate < largest and self._step(numbers, rate, rounds) < enough:
            rate *= RATE_RATIO
        return min(rate, largest)

    def _step(self, numbers: PublicNumbers, rate: float, rounds: int) -> float:
        """Return the step at which the noise of all steps is the constant."""
        sigma = numbers.noise_multiplier(rate, rounds)
        return self.noise * rate * numbers.records / (math.sqrt(rounds) * sigma) if sigma else math.inf


CNN_DEFAULTS: Final = TrainingDefaults(
    rounds=100, sample_rate=0.05, clip=1.0, learning_rate=2.0, momentum=0.0, ema=0.9
)
CNN_RECIPE: Final = PixelRecipe(
    least=100,
    most=100,
    passes=5,
    gradients=40_000,
    clip=1.0,
    noise=0.04,
    longest=2.0,
    momentum=0.0,
    ema=0.9,
)
TANH_DEFAULTS: Final = TrainingDefaults(
    rounds=300, sample_rate=0.05, clip=0.1, learning_rate=20.0, momentum=0.0, ema=0.95
)
TANH_RECIPE: Final = PixelRecipe(
    least=100,
    most=300,
    passes=15,
    gradients=60_000,
    clip=0.1,
    noise=0.06,
    longest=8.0,
    momentum=0.0,
    ema=0.95,
)
RESNET_DEFAULTS: Final = TrainingDefaults(
    rounds=200, sample_rate=0.25, clip=1.0, learning_rate=0.5, momentum=0.0, ema=0.95
)
RESNET_RECIPE: Final = PixelRecipe(
    least=100,
    most=200,
    passes=20,
    gradients=60_000,
    clip=1.0,
    noise=0.005,
    longest=0.5,
    momentum=0.0,
    ema=0.95,
)
