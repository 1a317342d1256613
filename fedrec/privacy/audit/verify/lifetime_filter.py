"""Recompute a merchant's lifetime epsilon by the lifetime filter, a privacy filter with two arms.

The epsilons of single releases are added first. Then one of two sums must keep what is left of the cap: the
trainings' Renyi divergences at one order, which the first training determines (Feldman and Zrnic 2021,
"Individual Privacy Accounting via a Renyi Filter", section 4), or their epsilons by PLD for all planned steps
(Rogers, Roth, Ullman and Vadhan 2016, "Privacy Odometers and Filters"). Releases get 1/16 of delta, each arm
15/32. Within these, position i (from 0) gets 1 / ((i + 1) (i + 2)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .epsilons import MIN_DELTA, ORDERS, pld_epsilon, rdp_epsilon, rdp_epsilons, rdp_step

RELEASES_PART, ARM_PART = 1 / 16, 15 / 32


class TrainingSpend(NamedTuple):
    """What a training spends.

    Attributes:
        rate: the sampling rate of a step.
        noise: the noise multiplier of a step.
        planned: number of steps that the plan allows.
        counted: number of steps charged so far.
        beta: probability per step that the sensitivity is exceeded.
    """

    rate: float
    noise: float
    planned: int
    counted: int
    beta: float


def lifetime_epsilon(
    trainings: Sequence[TrainingSpend],
    releases: Sequence[tuple[float, float]],
    *,
    epsilon: float,
    delta: float,
) -> float:
    """Compute the epsilon that counts against a lifetime cap.

    Args:
        trainings: in the order of their first charges.
        releases: (sampling rate, noise multiplier) of each single release, in order.
        epsilon: the cap.
        delta: the cap's delta.

    Returns:
        The lifetime epsilon at ``delta``; infinity if there is no bound.
    """
    first = sum(
        _alone(rate, noise, 1, _part(delta * RELEASES_PART, at)) for at, (rate, noise) in enumerate(releases)
    )
    basic = sum(
        _alone(t.rate, t.noise, t.planned, _part(delta * ARM_PART, at) - t.beta * t.planned)
        for at, t in enumerate(trainings)
    )
    return first + min(basic, _renyi(trainings, epsilon=epsilon, delta=delta * ARM_PART))


def _part(delta: float, at: int) -> float:
    return delta / ((at + 1) * (at + 2))


def _alone(rate: float, noise: float, steps: int, delta: float) -> float:
    if delta < MIN_DELTA:
        return math.inf
    return pld_epsilon(((rate, noise, steps),), delta, rdp_epsilon(rdp_step(rate, noise) * steps, delta))


def _renyi(trainings: Sequence[TrainingSpend], *, epsilon: float, delta: float) -> float:
    left = delta - sum(t.beta * t.counted for t in trainings)
    total = sum(
        (rdp_step(t.rate, t.noise) * t.counted for t in trainings if t.counted), start=np.zeros(len(ORDERS))
    )
    if not np.any(total):
        return 0.0
    # The order at which the cap admits the most steps like the first training's; fixed from then on.
    room = epsilon - rdp_epsilons(np.zeros(len(ORDERS)), delta)
    order = int(np.argmax(room / rdp_step(trainings[0].rate, trainings[0].noise)))
    return float(rdp_epsilons(total, left)[order]) if left >= MIN_DELTA else math.inf
