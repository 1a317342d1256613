"""The lifetime cap: a filter, which holds for a server that chooses each next plan after seeing all results.

Privacy loss distributions composed over plans chosen that way are no bound (``docs/accounting.md`` has a
server that exceeds delta 1.6 times). Two rules are: a sum of Renyi divergences at one order that is fixed
beforehand (Feldman and Zrnic 2021, section 4), and a sum of epsilons and deltas of trainings, each of a size
fixed when it starts (Rogers, Roth, Ullman and Vadhan 2016); both also for trainings side by side (Haney and
others 2023). Either may let a training in, and each has its own part of delta for that.

Everything here is a function of public numbers: those of plans, in the order in which a ledger first charged
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.events import MIN_DELTA, Event, check_delta
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.privacy_spend import PrivacySpend
from fedrec.privacy.accounting.rdp import ORDERS, epsilons_from_rdp, rdp_vector

RELEASES_PART = 1 / 16
"""Part of delta that single releases have; the two arms share the rest evenly."""
ARM_PART = (1 - RELEASES_PART) / 2
_LARGEST_NEEDED = 1e6


@dataclass(frozen=True)
class TrainingCost:
    """What one training costs: ``planned`` noised steps like ``step``, ``charged`` of them so far.

    ``step`` is one noised step (its ``steps`` is 1) in the view that the cap is held in, ``beta`` the chance
    that rounding passes the sensitivity in it. Arm (a) counts the steps charged, arm (b) all that are
    planned. Who asks whether more would fit counts them as charged.
    """

    step: Event
    planned: int
    charged: int
    beta: float

    def __post_init__(self) -> None:
        if self.step.steps != 1 or not 0 <= self.charged <= self.planned or not 0.0 <= self.beta < 1.0:
            raise ConfigError(
                f"lifetime cap: a training of {self.planned} steps, {self.charged} charged, is no training."
            )

    def spend(self, steps: int) -> PrivacySpend:
        """Return what so many of its steps spend in the cap's view; their delta is the caller's to say."""
        noise = self.step.noise_multiplier
        return PrivacySpend(
            sample_rate=self.step.sample_rate,
            multiplier=noise,
            broken_multiplier=noise,
            steps=steps,
            beta=self.beta,
            delta=0.0,
        )


@dataclass(frozen=True)
class FilterReading:
    """What the filter says: epsilon of single releases, and of all trainings by either arm.

    ``order`` is the Renyi order of arm (a), None before the first training.
    """

    epsilon: float
    releases: float
    renyi: float
    basic: float
    order: float | None

    @property
    def spent(self) -> float:
        """Epsilon that counts against the cap: the releases', and the lower of the two arms'."""
        return self.releases + min(self.renyi, self.basic)

    @property
    def arm(self) -> Literal["renyi", "basic"]:
        """The arm that reads less."""
        return "renyi" if self.renyi <= self.basic else "basic"

    @property
    def fits(self) -> bool:
        """Whether all of it is within the cap."""
        return self.spent <= self.epsilon

    @property
    def left(self) -> float:
        """What is left of the cap; 0 where it is passed."""
        return max(0.0, self.epsilon - self.spent)


def read_filter(
    trainings: Sequence[TrainingCost], *, releases: Sequence[Event] = (), epsilon: float, delta: float
) -> FilterReading:
    """Hold trainings and single releases against a cap of (``epsilon``, ``delta``).

    Args:
        trainings: in the order of their first charges; one that asks to join comes last.
        releases: single releases, such as a noised count, in the order of their charges.
        epsilon: the cap.
        delta: the cap's delta; all betas come out of it too.

    Raises:
        ConfigError: the cap is no positive number, or ``delta`` is out of range.

    """
    check_delta(delta)
    if not 0.0 < epsilon < math.inf:
        raise ConfigError(f"lifetime cap: epsilon {epsilon} is not a positive number; choose one such as 10.")
    return FilterReading(
        epsilon=epsilon,
        releases=math.fsum(
            _pld(event, delta_share(delta * RELEASES_PART, position))
            for position, event in enumerate(releases)
        ),
        renyi=_renyi(trainings, epsilon=epsilon, delta=delta),
        basic=math.fsum(
            training.spend(training.planned).with_delta(delta_share(delta * ARM_PART, position)).epsilon()
            for position, training in enumerate(trainings)
        ),
        order=float(ORDERS[order_index(trainings[0].step, epsilon=epsilon, delta=delta)])
        if trainings
        else None,
    )


def needed_cap(trainings: Sequence[TrainingCost], *, releases: Sequence[Event] = (), delta: float) -> float:
    """Return the least cap, to the hundredth, at which all of it fits at ``delta``; infinite if none does.

    What arm (a) reads depends on the cap itself, which its order is fixed by.
    """

    def fits(hundredths: int) -> bool:
        return read_filter(trainings, releases=releases, epsilon=hundredths / 100, delta=delta).fits

    low, high = 0, 1
    while not fits(high):
        low, high = high, 2 * high
        if high > _LARGEST_NEEDED * 100:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high / 100


def delta_share(delta: float, position: int) -> float:
    """Return the share of a delta that is for the thing at ``position``, counted from 0: 1/2, 1/6, 1/12, ...

    1 / ((i + 1) (i + 2)) of it: parts of any number of things add up to less than the whole, and fall slowly.
    """
    return delta / ((position + 1) * (position + 2))


def order_index(step: Event, *, epsilon: float, delta: float) -> int:
    """Return the index of the order of arm (a): that at which most steps like the ledger's first fit the cap.

    A filter at one order doesn't bound the best of several, since a server could steer which is best. So the
    order is fixed once, by numbers that were chosen before anything was seen: the cap and the first
    training's rate and noise. Trainings like the first lose nothing by it.
    """
    room = epsilon - epsilons_from_rdp(np.zeros(ORDERS.shape), delta=delta * ARM_PART)
    return int(np.argmax(room / rdp_vector(step)))


def _renyi(trainings: Sequence[TrainingCost], *, epsilon: float, delta: float) -> float:
    if not any(training.charged for training in trainings):
        return 0.0
    index = order_index(trainings[0].step, epsilon=epsilon, delta=delta)
    left = delta * ARM_PART - math.fsum(training.spend(training.charged).betas for training in trainings)
    if left < MIN_DELTA:
        return math.inf
    total = sum(rdp_vector(replace(training.step, steps=training.charged)) for training in trainings)
    return float(epsilons_from_rdp(np.asarray(total), delta=left)[index])


def _pld(event: Event, delta: float) -> float:
    return epsilon_pld([event], delta=delta) if delta >= MIN_DELTA else math.inf
