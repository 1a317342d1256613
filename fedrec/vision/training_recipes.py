"""Choose a training's settings from public numbers: records, budget, and what the model takes as input.

Nothing here is measured on a merchant's photos, so the choice costs no privacy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

STABLE_STEP: Final = 400.0
"""Step of a full batch that is stable, in units where a record's clipped gradient has length 1."""
LONGEST_STEP: Final = 1000.0
"""The step is never longer, also where the most steps don't reach what the budget allows."""
LEAST_STEPS: Final = 10
MOST_STEPS: Final = 100
HEAD_CLIP: Final = 0.2
"""Clip of a head's gradients; features have unit length, and most gradients are longer than this at first."""

FINE_TUNING_STEP: Final = 100.0
"""Step of a full batch at which fine-tuning is stable; at a head's it measured worse than the head."""
LAST_LAYER_STEP: Final = 200.0
"""The same where one layer below the head is fine-tuned: at 400 it lost 2 to 6 points against the head."""
MOST_FINE_TUNING_STEPS: Final = 50
"""Each runs the network forward and backward for every photo."""


@dataclass(frozen=True)
class TrainingDefaults:
    """Settings of a model's training where the user gives none.

    They are for the update v = momentum * v + (noisy sum of clipped gradients) / (q * N), then
    parameters = parameters - learning_rate * v.

    Attributes:
        rounds: number of steps, one a round.
        sample_rate: q, the chance of each record to be in a round.
        clip: C, the largest L2 norm of a record's gradient.
        learning_rate: step length.
        momentum: of SGD, 0 for none.
        ema: decay per round of the exponential moving average of the parameters.
        nesterov: whether the momentum is Nesterov's.
    """

    rounds: int
    sample_rate: float
    clip: float
    learning_rate: float
    momentum: float
    ema: float
    nesterov: bool = False


ONE_ROUND: Final = TrainingDefaults(
    rounds=1, sample_rate=1.0, clip=1.0, learning_rate=1.0, momentum=0.0, ema=0.0
)
"""Settings of a model that is solved from one sum of all records; clip and learning rate have no effect."""

FINE_TUNING: Final = TrainingDefaults(
    rounds=50, sample_rate=0.25, clip=HEAD_CLIP, learning_rate=50.0, momentum=0.9, ema=0.9
)
"""Settings of a fine-tuned network where no recipe chooses them, as with ``local`` steps."""


@dataclass(frozen=True, kw_only=True)
class PublicNumbers:
    """What a recipe may look at.

    Attributes:
        records: N, the sum of the numbers of records that merchants declared.
        noise_multiplier: returns the noise multiplier that a budget needs for (sampling rate, steps); 0 for a
            training without noise.
        rounds: the user's number of rounds, or None.
        sample_rate: the user's sampling rate, or None.
        clip: the user's clip, or None.
        momentum: the user's momentum, or None.
    """

    records: int
    noise_multiplier: Callable[[float, int], float]
    rounds: int | None = None
    sample_rate: float | None = None
    clip: float | None = None
    momentum: float | None = None


class Recipe(Protocol):
    """Chooses settings from public numbers."""

    def __call__(self, numbers: PublicNumbers) -> TrainingDefaults:
        """Return the settings; those that the user gave are kept, and the others fit them."""
        ...


def head_recipe(numbers: PublicNumbers) -> TrainingDefaults:
    """Choose settings for a linear head on centred features of unit length.

    T steps of noise multiplier sigma leave noise of standard deviation lr sqrt(T) sigma / (q N) in a logit,
    where lr counts in units of the clip. It is set to 1, about the margin at which a softmax is undecided:
    more would drown the classes, less would leave the head too short of its optimum. With q = 1 and the
    Gaussian-DP parameter mu = sqrt(T) / sigma of the budget (Dong et al. 2022, "Gaussian Differential
    Privacy", corollary 3.3), this is lr T = mu N whatever T is. So there are only as many steps as stability
    asks. Full batches lose nothing to smaller ones at equal cost, and need fewer rounds. The first of the
    rounds releases the mean of the features at the price of a step.

    Args:
        numbers: the public numbers.

    Returns:
        The settings.
    """
    return _by_noise(numbers, _StepRule(STABLE_STEP, LONGEST_STEP, MOST_STEPS))


def fine_tuning_recipe(numbers: PublicNumbers) -> TrainingDefaults:
    """Choose settings for a frozen network that is fine-tuned together with a head on centred features.

    The steps follow from the noise as in :func:`head_recipe`, but are a quarter as long at most: there are up
    to four times as many. The low-rank changes take the same steps: their scale is chosen for that.
    The first round releases the mean of the unchanged features.

    Args:
        numbers: the public numbers.

    Returns:
        The settings.
    """
    return _by_noise(numbers, _StepRule(FINE_TUNING_STEP, FINE_TUNING_STEP, MOST_FINE_TUNING_STEPS))


def last_layer_recipe(numbers: PublicNumbers) -> TrainingDefaults:
    """Choose settings for one layer that is fine-tuned below a head on centred features.

    The steps are those of :func:`fine_tuning_recipe`, and up to twice as long: up to budgets that need no
    longer ones they are a head's.

    Args:
        numbers: the public numbers.

    Returns:
        The settings.
    """
    return _by_noise(numbers, _StepRule(LAST_LAYER_STEP, LAST_LAYER_STEP, MOST_FINE_TUNING_STEPS))


@dataclass(frozen=True)
class _StepRule:
    """How long a full batch's step may be, in units of the clip, and how many steps there are.

    Attributes:
        stable: the length that decides the number of steps.
        longest: the length is never larger, whatever the budget allows.
        most: most steps of full batches.
    """

    stable: float
    longest: float
    most: int


def _by_noise(numbers: PublicNumbers, rule: _StepRule) -> TrainingDefaults:
    """Choose steps and their length by the noise they leave in a logit, after the round of the mean."""
    clip = HEAD_CLIP if numbers.clip is None else numbers.clip
    rate = 1.0 if numbers.sample_rate is None else numbers.sample_rate
    single = numbers.noise_multiplier(1.0, 1)
    reach = numbers.records / single if single else math.inf
    if numbers.rounds is None:
        steps = math.ceil(min(max(reach / rule.stable, LEAST_STEPS), rule.most))
        steps = min(math.ceil(steps / rate), rule.most * 4)
    else:
        steps = max(numbers.rounds - 1, 1)
    momentum = _momentum(steps) if numbers.momentum is None else numbers.momentum
    sigma = numbers.noise_multiplier(rate, steps + 1)
    reached = rate * numbers.records / (sigma * math.sqrt(steps)) if sigma else rule.stable
    return TrainingDefaults(
        rounds=steps + 1,
        sample_rate=rate,
        clip=clip,
        learning_rate=min(reached, rule.longest) * (1 - momentum) / clip,
        momentum=momentum,
        ema=0.0,
        nesterov=momentum > 0,
    )


def _momentum(steps: int) -> float:
    """Return a momentum whose memory of 1 / (1 - m) steps is a small part of the training."""
    if steps >= 40:
        return 0.9
    if steps >= 20:
        return 0.8
    return 0.7 if steps > LEAST_STEPS else 0.0
