"""What a ledger was charged, as the lifetime filter reads it, and what each training costs by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedrec.errors import LedgerError
from fedrec.privacy.accounting.entry_contents import Charge, Cost, Count
from fedrec.privacy.accounting.events import MIN_DELTA, Event
from fedrec.privacy.accounting.ledger_entries import SpendingEntry
from fedrec.privacy.accounting.lifetime_filter import FilterReading, TrainingCost, needed_cap, read_filter
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.privacy_spend import View

MAX_PREPARED = 4096
"""Most charges of a training worked out ahead; later ones are composed as they come."""


@dataclass(frozen=True)
class _TrainingCharges:
    """A training: one of its charges, which are all alike, and how many of its steps were charged."""

    charge: Charge
    steps: int

    def in_view(self, view: View) -> TrainingCost:
        """Return it in the filter's terms."""
        charge = self.charge
        return TrainingCost(
            step=replace(charge.event(view), steps=1),
            planned=charge.rounds * charge.steps,
            charged=self.steps,
            beta=charge.beta,
        )


class Lifetime:
    """Trainings in the order of their first charges, and single releases in that of theirs."""

    def __init__(self) -> None:
        self._trainings: dict[str, _TrainingCharges] = {}
        self._releases: list[Count] = []
        self._prepared: tuple[str, tuple[float, ...]] | None = None

    @staticmethod
    def of(entries: Iterable[SpendingEntry]) -> Lifetime:
        """Take in a ledger's entries, in order."""
        found = Lifetime()
        for entry in entries:
            found.add(entry.cost)
        return found

    def add(self, cost: Charge | Count) -> None:
        """Take in what was spent, once it is written; ``LedgerError`` as :meth:`check_alike`."""
        if isinstance(cost, Count):
            self._releases.append(cost)
        else:
            self.check_alike(cost)
            self._trainings[cost.training_id] = self._with(cost, charges=1)

    def check_alike(self, charge: Charge) -> None:
        """Raise ``LedgerError`` unless a charge is like its training's others, and within what is planned.

        What the filter counts for a training is fixed by its first charge.
        """
        before = self._trainings.get(charge.training_id)
        if before is not None and _fixed_terms(before.charge) != _fixed_terms(charge):
            raise LedgerError(
                f"ledger: training {charge.training_id[:12]} was begun with other rates, noise or rounds."
            )
        if self._with(charge, charges=1).steps > charge.rounds * charge.steps:
            raise LedgerError(
                f"ledger: training {charge.training_id[:12]} is planned for {charge.rounds} rounds, no more."
            )

    def reading(
        self,
        *,
        epsilon: float,
        delta: float,
        adding: Charge | Count | None = None,
        charges: int = 1,
        view: View = "server",
    ) -> FilterReading:
        """Read the filter at a cap of (``epsilon``, ``delta``), with so many ``charges`` more like one given.

        Raises ``ConfigError`` where the cap is out of range.
        """
        trainings, releases = self._in_view(view, adding=adding, charges=charges)
        return read_filter(trainings, releases=releases, epsilon=epsilon, delta=delta)

    def needed_cap(self, charge: Charge, *, charges: int, delta: float) -> float:
        """Return the least cap, to the hundredth, that lets so many more charges like this one in."""
        trainings, releases = self._in_view("server", adding=charge, charges=charges)
        return needed_cap(trainings, releases=releases, delta=delta)

    def _in_view(
        self, view: View, *, adding: Charge | Count | None, charges: int
    ) -> tuple[list[TrainingCost], list[Event]]:
        spent, counts = self._trainings, self._releases
        if isinstance(adding, Count):
            counts = [*counts, adding]
        elif adding is not None:
            spent = spent | {adding.training_id: self._with(adding, charges=charges)}
        return [each.in_view(view) for each in spent.values()], [count.event(view) for count in counts]

    def _with(self, charge: Charge, *, charges: int) -> _TrainingCharges:
        before = self._trainings.get(charge.training_id)
        done = 0 if before is None else before.steps
        return _TrainingCharges(charge if before is None else before.charge, done + charges * charge.steps)

    def prepare(self, charge: Charge) -> None:
        """Compose all charges of a training like this one, so that :meth:`own_epsilon` looks them up."""
        if self._prepared is None or self._prepared[0] != charge.training_id:
            count = min(charge.rounds, MAX_PREPARED)
            whole = charge.spend.with_steps(count * charge.steps)
            self._prepared = (charge.training_id, whole.schedule(every=charge.steps))

    def own_epsilon(self, cost: Cost, *, charges: int = 1, view: View = "server") -> float:
        """Epsilon by PLD of a release, or of a training with so many more charges, at its own delta.

        The betas of its steps are taken off that delta. Infinite where nothing bounds it.
        """
        if not isinstance(cost, Charge):
            return epsilon_pld([cost.event(view)], delta=cost.delta) if cost.delta >= MIN_DELTA else math.inf
        steps = self._with(cost, charges=charges).steps
        if self._prepared is not None and self._prepared[0] == cost.training_id and view == "server":
            position, known = steps // cost.steps, self._prepared[1]
            if position < len(known):
                return known[position]
        return cost.spend.with_steps(steps).epsilon(view)

    def training_epsilon(self, charge: Charge, *, charges: int = 0) -> float:
        """Epsilon by PLD of a training and all counts that were declared, at the training's own delta.

        That is the figure which people read of a training: a report's, an audit's and the status's.

        Args:
            charge: any of the training's.
            charges: so many more charges like it.

        Returns:
            Epsilon in the server's view; infinite where nothing bounds it.

        """
        steps = self._with(charge, charges=charges).steps
        counts = (count.event("server") for count in self._releases)
        return charge.spend.with_steps(steps).with_releases(*counts).epsilon()


def _fixed_terms(charge: Charge) -> tuple[object, ...]:
    """What a training's charges have in common."""
    both = charge.event("server"), charge.event("aggregation_broken")
    return (*both, charge.beta, charge.delta, charge.rounds)
