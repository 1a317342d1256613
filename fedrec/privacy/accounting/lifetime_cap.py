"""Hold costs against the lifetime cap of a ledger."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec._internal.text import counted
from fedrec.errors import BudgetExceededError, LedgerError
from fedrec.privacy.accounting.entry_contents import Charge, Count
from fedrec.privacy.accounting.events import MIN_DELTA
from fedrec.privacy.accounting.ledger_entries import Epsilons, finite
from fedrec.privacy.accounting.lifetime_spend import Lifetime
from fedrec.privacy.accounting.privacy_filter import FilterReading
from fedrec.privacy.accounting.privacy_spend import View

NOMINAL_EPSILON = 10.0
"""Epsilon that the filter's order is chosen for where no cap is set, as in simulations."""


@dataclass(frozen=True)
class LifetimeCap:
    """The largest epsilon that the lifetime filter may count.

    Attributes:
        epsilon: the cap, above 0; None for no cap.
        delta: the delta that the cap holds at; None for no cap.

    Raises:
        LedgerError: only one of the two is given, or one is out of range.
    """

    epsilon: float | None = None
    delta: float | None = None

    def __post_init__(self) -> None:
        if (self.epsilon is None) != (self.delta is None):
            raise LedgerError("ledger: a lifetime cap needs both epsilon and delta.")
        if self.epsilon is not None and not self.epsilon > 0:
            raise LedgerError(f"ledger: the lifetime epsilon {self.epsilon} must be positive.")
        if self.delta is not None and not MIN_DELTA <= self.delta < 1:
            raise LedgerError(f"ledger: the lifetime delta {self.delta} is outside [{MIN_DELTA}, 1).")

    def filter_parameters(self, delta: float) -> tuple[float, float]:
        """Choose the epsilon and delta to evaluate the lifetime filter at.

        Args:
            delta: the delta to use where there is no cap.

        Returns:
            Epsilon and delta: the cap's, or :data:`NOMINAL_EPSILON` and ``delta`` where there is none.
        """
        if self.epsilon is None or self.delta is None:
            return NOMINAL_EPSILON, delta
        return self.epsilon, self.delta

    def read(self, lifetime: Lifetime, *, delta: float, view: View = "server") -> FilterReading:
        """Evaluate the lifetime filter: what was spent, and what is left.

        Args:
            lifetime: what the ledger was charged.
            delta: the delta to use where there is no cap.
            view: the view that noise multipliers are taken from.

        Returns:
            The filter's result.
        """
        epsilon, delta = self.filter_parameters(delta)
        return lifetime.reading(epsilon=epsilon, delta=delta, view=view)

    def epsilons(self, lifetime: Lifetime, cost: Charge | Count) -> Epsilons:
        """Compute the lifetime epsilons before and after a cost, in the server's view.

        Args:
            lifetime: what the ledger was charged before.
            cost: the charge or release that asks to be added.

        Returns:
            The epsilons to be written with the cost.

        Raises:
            BudgetExceededError: the cost would pass the cap.
            ConfigError: there is no cap, and the cost's own delta is out of range.
        """
        epsilon, delta = self.filter_parameters(cost.delta)
        after = lifetime.reading(epsilon=epsilon, delta=delta, adding=cost)
        if self.epsilon is not None and not after.fits:
            raise BudgetExceededError(
                f"privacy budget: this step would bring the lifetime epsilon to {after.spent:.4g} at delta "
                f"{delta:.3g}, over the cap of {self.epsilon:g}; the merchant stays out."
            )
        return Epsilons(
            spent_before=finite(lifetime.reading(epsilon=epsilon, delta=delta).spent),
            spent_after=finite(after.spent),
            own_epsilon=finite(lifetime.own_epsilon(cost)),
            cap_epsilon=epsilon,
            delta=delta,
        )

    def check_ahead(
        self, lifetime: Lifetime, charge: Charge, *, rounds: int, figures: Charge | None = None
    ) -> None:
        """Check that several charges fit the cap together.

        Args:
            lifetime: what the ledger was charged before.
            charge: one charge; the others are like it.
            rounds: number of charges.
            figures: the charge of site figures after those; None for none.

        Raises:
            BudgetExceededError: the charges would pass the cap.
        """
        epsilon, delta = self.filter_parameters(charge.delta)
        if self.epsilon is None or (rounds < 1 and figures is None):
            return
        after = lifetime.reading(
            epsilon=epsilon, delta=delta, adding=charge, charges=max(0, rounds), figures=figures
        )
        if not after.fits:
            more = "" if figures is None else " and its site figures"
            raise BudgetExceededError(
                f"policy 'lifetime_epsilon': the {counted(max(0, rounds), 'round')} left of training "
                f"{charge.training_id[:16]}{more} would bring it to {after.spent:.4g} at delta "
                f"{delta:.3g}, over the cap of {self.epsilon:g}"
            )
