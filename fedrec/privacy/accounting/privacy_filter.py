"""Bound the privacy loss of all trainings together by a privacy filter, for adaptively chosen plans.

A server may choose each next plan after seeing all results so far. Composing privacy loss distributions over
plans chosen like that is not a bound: ``docs/accounting.md`` has a server that exceeds delta 1.6 times. Two
rules are bounds, also for concurrent trainings (Haney and others 2023):

- "renyi", arm (a): the sum of Renyi divergences at one order that is fixed beforehand (Feldman and Zrnic
2021,
  "Individual Privacy Accounting via a Renyi Filter", section 4).
- "basic", arm (b): the sums of the trainings' epsilons and deltas, each training's size being fixed when it
  starts (Rogers, Roth, Ullman and Vadhan 2016, "Privacy Odometers and Filters").

A training fits if either arm says so; each arm has its own share of delta. All inputs are public: the numbers
of plans, in the order in which a ledger first charged them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.events import MIN_DELTA, Event, check_delta
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.privacy_spend import PrivacySpend
from fedrec.privacy.accounting.rdp import ORDERS, epsilons_from_rdp, rdp_vector

RELEASES_PART = 1 / 16
"""Share of delta for single releases; each arm gets half of the rest."""
ARM_PART = (1 - RELEASES_PART) / 2
_LARGEST_NEEDED = 1e6


@dataclass(frozen=True)
class TrainingCost:
    """The cost of one training.

    Arm (a) counts the charged steps, arm (b) all planned ones. To ask whether more steps would fit, count
    them as charged.

    Attributes:
        step: one noised step (its ``steps`` is 1), in the view that the cap is held in.
        planned: number of steps of the plan.
        charged: number of steps charged so far.
        beta: probability that rounding exceeds the sensitivity in one step.

    Raises:
        ConfigError: the numbers contradict each other.
    """

    step: Event
    planned: int
    charged: int
    beta: float

    def __post_init__(self) -> None:
        if self.step.steps != 1 or not 0 <= self.charged <= self.planned or not 0.0 <= self.beta < 1.0:
            raise ConfigError(
                f"lifetime cap: a training of {self.planned} planned steps can't have {self.charged} charged "
                f"ones, events of {self.step.steps} steps and beta {self.beta}."
            )

    def spend(self, steps: int) -> PrivacySpend:
        """Return the privacy spend of ``steps`` of its steps; the caller sets delta, which is 0 here."""
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
    """Result of the filter.

    Attributes:
        epsilon: the cap.
        releases: epsilon of the single releases.
        renyi: epsilon of all trainings by arm (a).
        basic: epsilon of all trainings by arm (b).
        order: Renyi order of arm (a); None before the first training.
    """

    epsilon: float
    releases: float
    renyi: float
    basic: float
    order: float | None

    @property
    def spent(self) -> float:
        """Epsilon that counts against the cap: that of the releases plus the smaller of the two arms."""
        return self.releases + min(self.renyi, self.basic)

    @property
    def fits(self) -> bool:
        """Whether everything spent is within the cap."""
        return self.spent <= self.epsilon

    @property
    def left(self) -> float:
        """Epsilon that is left of the cap; 0 where it is exceeded."""
        return max(0.0, self.epsilon - self.spent)


def read_filter(
    trainings: Sequence[TrainingCost], *, releases: Sequence[Event] = (), epsilon: float, delta: float
) -> FilterReading:
    """Evaluate the filter for trainings and single releases.

    Args:
        trainings: the trainings in the order of their first charges; a new one comes last.
        releases: single releases, such as a noised count, in the order of their charges.
        epsilon: the cap; it determines the order of arm (a).
        delta: the cap's delta, which includes all betas.

    Returns:
        The epsilons of the releases and of both arms.

    Raises:
        ConfigError: the cap isn't a positive number, or ``delta`` is out of range.
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
    """Search for the smallest cap that everything fits into.

    The search is needed because the result of arm (a) depends on the cap, which determines its order.

    Args:
        trainings: the trainings in the order of their first charges.
        releases: single releases in the order of their charges.
        delta: the cap's delta.

    Returns:
        The cap, rounded up to 0.01; infinite if there is none.
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
    """Compute the share of a delta for one of a sequence of trainings or releases: 1/2, 1/6, 1/12, ...

    The share of position i is 1 / ((i + 1) (i + 2)). The shares of any number of positions sum to less than
    the whole, and they decrease slowly.

    Args:
        delta: the delta to divide.
        position: position in the sequence, from 0.

    Returns:
        The share.
    """
    return delta / ((position + 1) * (position + 2))


def order_index(step: Event, *, epsilon: float, delta: float) -> int:
    """Choose the order of arm (a): the one at which most steps like the ledger's first one fit the cap.

    A filter at one order doesn't bound the best of several orders, since an adaptive server could influence
    which is best. So the order is fixed once, by numbers chosen before any result was seen: the cap and the
    first training's rate and noise. It is the optimal one for trainings like the first.

    Args:
        step: one step of the first training.
        epsilon: the cap.
        delta: the cap's delta.

    Returns:
        Index into :data:`fedrec.privacy.accounting.rdp.ORDERS`.
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
