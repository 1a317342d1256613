"""What a training spends of privacy: its noised steps in both views, and what is left of delta for them.

Rounding may pass the sensitivity by chance beta in each step, so that the accountants get delta less beta
times the steps. Everything that tells a training's epsilon takes it from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fedrec.privacy.accounting.accountant_spec import EpsilonOf
from fedrec.privacy.accounting.events import MIN_DELTA, Event
from fedrec.privacy.accounting.group_privacy import epsilon_of_copies
from fedrec.privacy.accounting.noise_multiplier import noise_multiplier_for
from fedrec.privacy.accounting.pld import epsilon_pld, epsilon_schedule

View = Literal["server", "aggregation_broken"]
"""What epsilon is against: the server's view as long as aggregation holds, or one merchant's own upload."""


def delta_left(*, delta: float, beta: float, steps: int) -> float:
    """Return what of delta is left for the noise: delta less beta for each step."""
    return delta - beta * steps


@dataclass(frozen=True)
class PrivacySpend:
    """Noised steps of one kind, and the delta that their epsilon is read at.

    Attributes:
        sample_rate: q, the chance of each record to be in a step.
        multiplier: noise multiplier of the server's view, 0 without a guarantee.
        broken_multiplier: that of one merchant's own share, all that is left if aggregation is broken.
        steps: how many steps there are.
        beta: chance per step that rounding passes the sensitivity.
        delta: the whole delta.
        releases: single releases that count with them, such as a noised size.
    """

    sample_rate: float
    multiplier: float
    broken_multiplier: float
    steps: int
    beta: float
    delta: float
    releases: tuple[Event, ...] = ()

    @property
    def betas(self) -> float:
        """The chance that rounding passes the sensitivity in any of the steps."""
        return self.beta * self.steps

    @property
    def accounting_delta(self) -> float:
        """What of delta is left for the noise."""
        return delta_left(delta=self.delta, beta=self.beta, steps=self.steps)

    def with_steps(self, steps: int) -> PrivacySpend:
        """Return the same with another number of steps."""
        return replace(self, steps=steps)

    def with_delta(self, delta: float) -> PrivacySpend:
        """Return the same at another delta."""
        return replace(self, delta=delta)

    def with_releases(self, *releases: Event) -> PrivacySpend:
        """Return the same with single releases beside it."""
        return replace(self, releases=(*self.releases, *releases))

    def of_one_share(self) -> PrivacySpend:
        """Return the same where single updates can be read: the server's view is that of one share."""
        return replace(self, multiplier=self.broken_multiplier)

    def noise_in(self, view: View) -> float:
        """Return the noise multiplier of a view."""
        return self.multiplier if view == "server" else self.broken_multiplier

    def events(self, view: View = "server") -> tuple[Event, ...]:
        """Return what it costs in a view, for the accountants."""
        return Event(self.sample_rate, self.noise_in(view), self.steps), *self.releases

    def epsilon(self, view: View = "server", *, by: EpsilonOf = epsilon_pld) -> float:
        """Return the proved epsilon, by PLD, or another accountant's.

        Infinite where there is no noise, or nothing left of delta.
        """
        if self.noise_in(view) == 0.0 or self.accounting_delta < MIN_DELTA:
            return math.inf
        return by(self.events(view), delta=self.accounting_delta)

    def epsilon_of_copies(self, copies: int) -> float:
        """Return the proved epsilon of so many copies of a record, server's view, as :meth:`epsilon`."""
        if self.multiplier == 0.0:
            return math.inf
        return epsilon_of_copies(self.events(), copies=copies, delta=self.delta, betas=self.betas)

    def schedule(self, *, every: int) -> tuple[float, ...]:
        """Return the proved epsilons of 0, ``every``, twice as many, ... up to all steps, server's view."""
        counts = range(0, self.steps + 1, every)
        if self.multiplier == 0.0:
            return (math.inf,) * len(counts)
        deltas = [self.with_steps(count).accounting_delta for count in counts]
        step = Event(self.sample_rate, self.multiplier, every)
        return epsilon_schedule(self.releases, step, deltas=deltas)


def least_multiplier(
    epsilon: float,
    *,
    delta: float,
    sample_rate: float,
    steps: int,
    beta: float,
    releases: Sequence[Event] = (),
) -> float:
    """Return the least noise multiplier that keeps ``steps`` steps, and ``releases``, within ``epsilon``.

    Raises:
        ConfigError: an argument is out of range, or too little is left of ``delta``.
        UnreachableBudgetError: no multiplier keeps within ``epsilon``.
    """
    return noise_multiplier_for(
        epsilon=epsilon,
        delta=delta_left(delta=delta, beta=beta, steps=steps),
        sample_rate=sample_rate,
        steps=steps,
        releases=tuple(releases),
    )
