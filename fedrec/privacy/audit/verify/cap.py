"""A merchant's lifetime cap, recomputed: what the two-armed filter reads for a ledger's trainings.

Single releases are added up first. Then either the trainings' Renyi divergences at one order, fixed by the
first of them, or the sum of their epsilons by PLD, each for all its planned steps, must keep within what is
left of the cap. Releases have 1/16 of delta, each arm 15/32; the thing at position i of a row has 1 / ((i +
1) (i + 2)) of the row's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .epsilons import MIN_DELTA, ORDERS, pld_epsilon, rdp_epsilon, rdp_epsilons, rdp_step

RELEASES_PART, ARM_PART = 1 / 16, 15 / 32


class Spent(NamedTuple):
    """A training: rate and noise of its steps, how many are planned and counted, and each one's beta.

    Counted are the steps that were charged.
    """

    rate: float
    noise: float
    planned: int
    counted: int
    beta: float


def cap_spent(
    trainings: Sequence[Spent], releases: Sequence[tuple[float, float]], *, epsilon: float, delta: float
) -> float:
    """Epsilon that counts against a cap of ``epsilon`` at ``delta``; releases are pairs of rate and noise."""
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


def _renyi(trainings: Sequence[Spent], *, epsilon: float, delta: float) -> float:
    left = delta - sum(t.beta * t.counted for t in trainings)
    total = sum(
        (rdp_step(t.rate, t.noise) * t.counted for t in trainings if t.counted), start=np.zeros(len(ORDERS))
    )
    if not np.any(total):
        return 0.0
    # The order at which most steps like the first training's fit, whatever came later.
    room = epsilon - rdp_epsilons(np.zeros(len(ORDERS)), delta)
    order = int(np.argmax(room / rdp_step(trainings[0].rate, trainings[0].noise)))
    return float(rdp_epsilons(total, left)[order]) if left >= MIN_DELTA else math.inf
