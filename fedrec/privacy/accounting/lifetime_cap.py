"""The lifetime cap of a ledger: what a cost brings it to, and whether that is allowed."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.errors import BudgetExceededError, LedgerError
from fedrec.privacy.accounting.entry_contents import Charge, Count
from fedrec.privacy.accounting.events import MIN_DELTA
from fedrec.privacy.accounting.ledger_entries import Epsilons, finite
from fedrec.privacy.accounting.lifetime_filter import FilterReading
from fedrec.privacy.accounting.lifetime_spend import Lifetime
from fedrec.privacy.accounting.privacy_spend import View

NOMINAL_EPSILON = 10.0
"""Where no cap is set, as in simulations: what the filter's order is chosen for. Nothing is refused then."""


@dataclass(frozen=True)
class LifetimeCap:
    """No more than ``epsilon`` at ``delta`` by the lifetime filter; None for no cap, and then for both.

    Raises ``LedgerError`` for an impossible one.
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
        """Return epsilon and delta that the filter is read at; ``delta`` counts where there is no cap."""
        if self.epsilon is None or self.delta is None:
            return NOMINAL_EPSILON, delta
        return self.epsilon, self.delta

    def read(self, lifetime: Lifetime, *, delta: float, view: View = "server") -> FilterReading:
        """Read what was spent, and what is left; ``delta`` counts where there is no cap."""
        epsilon, delta = self.filter_parameters(delta)
        return lifetime.reading(epsilon=epsilon, delta=delta, view=view)

    def epsilons(self, lifetime: Lifetime, cost: Charge | Count) -> Epsilons:
        """Return the epsilons before and after ``cost``.

        Raises:
            BudgetExceededError: it would pass the cap.
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

    def check_ahead(self, lifetime: Lifetime, charge: Charge, *, rounds: int) -> None:
        """Raise ``BudgetExceededError`` unless so many charges like this one would be taken."""
        epsilon, delta = self.filter_parameters(charge.delta)
        if self.epsilon is None or rounds < 1:
            return
        after = lifetime.reading(epsilon=epsilon, delta=delta, adding=charge, charges=rounds)
        if not after.fits:
            raise BudgetExceededError(
                f"policy 'lifetime_epsilon': the {rounds} rounds left of training "
                f"{charge.training_id[:16]} would bring it to {after.spent:.4g} at delta {delta:.3g}, over "
                f"the cap of {self.epsilon:g}"
            )
