"""Compute what a training spends of its privacy budget, in both views.

Rounding may exceed the sensitivity with probability beta in each step, so the accountants get delta less beta
times the number of steps. All code that states a training's epsilon uses this module.
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
"""What the adversary sees: the server's view of opened sums, or single uploads if aggregation is broken."""


def delta_left(*, delta: float, beta: float, steps: int) -> float:
    """Compute the delta that is left for the noise: delta less beta for each step.

    Args:
        delta: the whole delta.
        beta: probability per step that rounding exceeds the sensitivity.
        steps: number of noised steps.

    Returns:
        The rest, which may be negative.
    """
    return delta - beta * steps


@dataclass(frozen=True)
class PrivacySpend:
    """Noised steps of one kind, single releases, and the delta that their epsilon is taken at.

    Attributes:
        sample_rate: probability q of each record to be in a step.
        multiplier: noise multiplier in the server's view; 0 for no guarantee.
        broken_multiplier: noise multiplier of one merchant's own share, which is left if aggregation is
            broken.
        steps: number of steps.
        beta: probability per step that rounding exceeds the sensitivity.
        delta: the whole delta.
        releases: single releases that are accounted with the steps, such as a noised count.
        figures: the steps of another kind that follow, of site figures; their own delta doesn't matter.
    """

    sample_rate: float
    multiplier: float
    broken_multiplier: float
    steps: int
    beta: float
    delta: float
    releases: tuple[Event, ...] = ()
    figures: PrivacySpend | None = None

    @property
    def betas(self) -> float:
        """Probability that rounding exceeds the sensitivity in any of the steps."""
        return self.beta * self.steps + (0.0 if self.figures is None else self.figures.betas)

    @property
    def accounting_delta(self) -> float:
        """The delta that is left for the noise."""
        return self.delta - self.betas

    def with_steps(self, steps: int) -> PrivacySpend:
        """Return a copy with another number of steps."""
        return replace(self, steps=steps)

    def with_delta(self, delta: float) -> PrivacySpend:
        """Return a copy with another delta."""
        return replace(self, delta=delta)

    def with_releases(self, *releases: Event) -> PrivacySpend:
        """Return a copy with further single releases."""
        return replace(self, releases=(*self.releases, *releases))

    def with_figures(self, figures: PrivacySpend | None) -> PrivacySpend:
        """Return a copy with the steps of site figures; None for none."""
        return replace(self, figures=figures)

    def of_one_share(self) -> PrivacySpend:
        """Return a copy for a server that can read single updates: its view has the noise of one share."""
        figures = None if self.figures is None else self.figures.of_one_share()
        return replace(self, multiplier=self.broken_multiplier, figures=figures)

    def noise_in(self, view: View) -> float:
        """Return the noise multiplier of a view."""
        return self.multiplier if view == "server" else self.broken_multiplier

    def events(self, view: View = "server") -> tuple[Event, ...]:
        """Return the events of a view, for the accountants."""
        figures = () if self.figures is None else self.figures.events(view)
        return Event(self.sample_rate, self.noise_in(view), self.steps), *figures, *self.releases

    def epsilon(self, view: View = "server", *, by: EpsilonOf = epsilon_pld) -> float:
        """Compute epsilon.

        Args:
            view: the view that noise multipliers are taken from.
            by: the accountant; PLD gives the proved epsilon.

        Returns:
            Epsilon; infinite where there is no noise, or nothing left of delta.
        """
        if self._has_no_noise(view) or self.accounting_delta < MIN_DELTA:
            return math.inf
        return by(self.events(view), delta=self.accounting_delta)

    def epsilon_of_copies(self, copies: int) -> float:
        """Compute the proved epsilon of several copies of a record in the server's view."""
        if self._has_no_noise("server"):
            return math.inf
        return epsilon_of_copies(self.events(), copies=copies, delta=self.delta, betas=self.betas)

    def _has_no_noise(self, view: View) -> bool:
        return self.noise_in(view) == 0.0 or (self.figures is not None and self.figures.noise_in(view) == 0.0)

    def schedule(self, *, every: int) -> tuple[float, ...]:
        """Compute the proved epsilons after 0, ``every``, 2 * ``every``, ... steps, in the server's view.

        Args:
            every: number of steps between two epsilons.

        Returns:
            The epsilons; none includes site figures, which follow the last step.
        """
        counts = range(0, self.steps + 1, every)
        if self.multiplier == 0.0:
            return (math.inf,) * len(counts)
        alone = self.with_figures(None)
        deltas = [alone.with_steps(count).accounting_delta for count in counts]
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
    other_betas: float = 0.0,
) -> float:
    """Compute the smallest noise multiplier that keeps steps and releases within a target epsilon.

    An argument out of range, or too little left of ``delta``, raises ``ConfigError``; a target that no
    multiplier reaches raises ``UnreachableBudgetError``.

    Args:
        epsilon: the target.
        delta: the whole delta.
        sample_rate: probability q of each record to be in a step.
        steps: number of noised steps.
        beta: probability per step that rounding exceeds the sensitivity.
        releases: single releases that the target covers too.
        other_betas: what the releases take off delta.

    Returns:
        The noise multiplier, as :func:`fedrec.privacy.accounting.noise_multiplier.noise_multiplier_for`.
    """
    return noise_multiplier_for(
        epsilon=epsilon,
        delta=delta_left(delta=delta, beta=beta, steps=steps) - other_betas,
        sample_rate=sample_rate,
        steps=steps,
        releases=tuple(releases),
    )
