"""Turn a ledger's charges into input of the lifetime filter, and compute each training's own epsilon."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedrec.errors import LedgerError
from fedrec.privacy.accounting.entry_contents import Charge, Cost, Count, figures_account
from fedrec.privacy.accounting.events import MIN_DELTA, Event
from fedrec.privacy.accounting.ledger_entries import SpendingEntry
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.privacy_filter import FilterReading, TrainingCost, needed_cap, read_filter
from fedrec.privacy.accounting.privacy_spend import PrivacySpend, View

MAX_PREPARED = 4096
"""Largest number of a training's charges computed in advance; later ones are composed one by one."""


@dataclass(frozen=True)
class _TrainingCharges:
    """The first charge of a training, or of its site figures, which all others equal; and steps charged."""

    charge: Charge
    steps: int

    def in_view(self, view: View) -> TrainingCost:
        """Return the training as input of the filter."""
        charge = self.charge
        return TrainingCost(
            step=replace(charge.event(view), steps=1),
            planned=charge.planned_steps,
            charged=self.steps,
            beta=charge.beta,
        )


class Lifetime:
    """Trainings in the order of their first charges, and single releases in the order of theirs."""

    def __init__(self) -> None:
        self._trainings: dict[str, _TrainingCharges] = {}
        self._releases: list[Count] = []
        self._prepared: tuple[str, tuple[float, ...]] | None = None

    @staticmethod
    def of(entries: Iterable[SpendingEntry]) -> Lifetime:
        """Build it from a ledger's entries, given in order."""
        found = Lifetime()
        for entry in entries:
            found.add(entry.cost)
        return found

    def add(self, cost: Charge | Count) -> None:
        """Add a cost that was written; raise ``LedgerError`` as :meth:`check_alike`."""
        if isinstance(cost, Count):
            self._releases.append(cost)
        else:
            self.check_alike(cost)
            self._trainings[cost.account] = self._with(cost, charges=1)

    def check_alike(self, charge: Charge) -> None:
        """Check that a charge equals its training's others and is within the planned number of rounds.

        The filter relies on both: what it counts for a training is fixed by the first charge.

        Args:
            charge: the charge that asks to be added.

        Raises:
            LedgerError: rate, noise, beta, delta or number of rounds differ, or the plan has no further
                round.
        """
        before = self._trainings.get(charge.account)
        both = (self._trainings.get(name) for name in (charge.training_id, figures_account(charge)))
        shared = {(other.charge.rounds, other.charge.delta) for other in both if other is not None}
        if (before is not None and _fixed_terms(before.charge) != _fixed_terms(charge)) or not (
            shared <= {(charge.rounds, charge.delta)}
        ):
            raise LedgerError(
                f"ledger: training {charge.training_id[:12]} began with another rate, noise or round count."
            )
        if self._with(charge, charges=1).steps > charge.planned_steps:
            raise LedgerError(
                f"ledger: training {charge.training_id[:12]} has charged all of its {charge.rounds} rounds."
            )

    def reading(
        self,
        *,
        epsilon: float,
        delta: float,
        adding: Charge | Count | None = None,
        charges: int = 1,
        figures: Charge | None = None,
        view: View = "server",
    ) -> FilterReading:
        """Evaluate the lifetime filter, optionally with further charges.

        Args:
            epsilon: the cap.
            delta: the cap's delta.
            adding: a further charge or release; None for none.
            charges: how many times a further charge is added.
            figures: a further charge of site figures after those; None for none.
            view: the view that noise multipliers are taken from.

        Returns:
            The filter's result.

        Raises:
            ConfigError: the cap is out of range.
        """
        trainings, releases = self._in_view(view, adding=adding, charges=charges, figures=figures)
        return read_filter(trainings, releases=releases, epsilon=epsilon, delta=delta)

    def needed_cap(
        self, charge: Charge, *, charges: int, delta: float, figures: Charge | None = None
    ) -> float:
        """Search for the smallest cap that further charges fit into, in the server's view.

        Args:
            charge: a charge like each of the further ones.
            charges: number of further charges.
            delta: the cap's delta.
            figures: a further charge of site figures after those; None for none.

        Returns:
            The cap, rounded up to 0.01; infinite if there is none.
        """
        trainings, releases = self._in_view("server", adding=charge, charges=charges, figures=figures)
        return needed_cap(trainings, releases=releases, delta=delta)

    def _in_view(
        self, view: View, *, adding: Charge | Count | None, charges: int, figures: Charge | None
    ) -> tuple[list[TrainingCost], list[Event]]:
        spent, counts = self._trainings, self._releases
        if isinstance(adding, Count):
            counts = [*counts, adding]
        elif adding is not None and charges > 0:
            spent = spent | {adding.account: self._with(adding, charges=charges)}
        if figures is not None:
            spent = spent | {figures.account: self._with(figures, charges=1)}
        return [each.in_view(view) for each in spent.values()], [count.event(view) for count in counts]

    def _with(self, charge: Charge, *, charges: int) -> _TrainingCharges:
        before = self._trainings.get(charge.account)
        done = 0 if before is None else before.steps
        return _TrainingCharges(charge if before is None else before.charge, done + charges * charge.steps)

    def prepare(self, charge: Charge) -> None:
        """Compose all charges of a training in advance, so that :meth:`own_epsilon` looks them up."""
        if self._prepared is None or self._prepared[0] != charge.account:
            count = min(charge.rounds, MAX_PREPARED)
            whole = charge.spend.with_steps(count * charge.steps)
            self._prepared = (charge.account, whole.schedule(every=charge.steps))

    def own_epsilon(self, cost: Cost, *, charges: int = 1, view: View = "server") -> float:
        """Compute the epsilon by PLD of a release, or of a training with further charges, at its own delta.

        A charge of site figures is a further one of its training.

        Args:
            cost: a release, or a charge like each of the further ones.
            charges: number of further charges.
            view: the view that noise multipliers are taken from.

        Returns:
            Epsilon at the cost's delta less the betas of its steps; infinite where there is no bound.
        """
        if not isinstance(cost, Charge):
            return epsilon_pld([cost.event(view)], delta=cost.delta) if cost.delta >= MIN_DELTA else math.inf
        spend = self._spend_of(cost, charges=charges)
        if self._prepared is not None and self._prepared[0] == cost.account and view == "server":
            position, known = spend.steps // cost.steps, self._prepared[1]
            if spend.figures is None and position < len(known):
                return known[position]
        return spend.epsilon(view)

    def training_epsilon(self, charge: Charge, *, charges: int = 0, figures: Charge | None = None) -> float:
        """Compute the epsilon by PLD of a training and all released counts, at the training's own delta.

        Reports, audits and the status show this epsilon for a training. Site figures that were charged are
        part of it.

        Args:
            charge: any charge of the training.
            charges: number of further charges like it.
            figures: a further charge of site figures; None for none.

        Returns:
            Epsilon in the server's view; infinite where there is no bound.
        """
        counts = (count.event("server") for count in self._releases)
        return self._spend_of(charge, charges=charges, figures=figures).with_releases(*counts).epsilon()

    def _spend_of(self, charge: Charge, *, charges: int, figures: Charge | None = None) -> PrivacySpend:
        """Return the spend of a training, with further charges; site figures are part of it."""
        main = charge
        if charge.is_of_figures:
            training = self._trainings.get(charge.training_id)
            if training is None:
                return charge.spend
            main, figures = training.charge, charge
        charged = self._trainings.get(figures_account(charge))
        more = figures if charged is None else charged.charge
        steps = self._with(main, charges=0 if charge.is_of_figures else charges).steps
        return main.spend.with_steps(steps).with_figures(None if more is None else more.spend)


def _fixed_terms(charge: Charge) -> tuple[object, ...]:
    """Return the values that all charges of a training must share."""
    both = charge.event("server"), charge.event("aggregation_broken")
    return (*both, charge.beta, charge.delta, charge.rounds)
