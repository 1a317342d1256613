"""The lifetime cap of a ledger: what a cost brings it to, and whether that is allowed."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.errors import BudgetExceededError, LedgerError
from fedrec.privacy.accounting.entries import Epsilons, finite
from fedrec.privacy.accounting.kinds import Charge, Cost
from fedrec.privacy.accounting.prepared import Totals


@dataclass(frozen=True)
class Cap:
    """No more than ``epsilon`` at ``delta``, less the betas spent; None for no cap, and then for both.

    Raises ``LedgerError`` for an impossible one.
    """

    epsilon: float | None = None
    delta: float | None = None

    def __post_init__(self) -> None:
        if (self.epsilon is None) != (self.delta is None):
            raise LedgerError("ledger: a lifetime cap needs both epsilon and delta.")
        if self.epsilon is not None and not self.epsilon > 0:
            raise LedgerError(f"ledger: the lifetime epsilon {self.epsilon} must be positive.")
        if self.delta is not None and not 0 < self.delta < 1:
            raise LedgerError(f"ledger: the lifetime delta {self.delta} is outside (0, 1).")

    def whole_delta(self, cost: Cost) -> float:
        """Return the delta at which epsilons are taken: the cap's, or where there is none the cost's."""
        return cost.delta if self.delta is None else self.delta

    def epsilons(self, totals: Totals, cost: Cost) -> Epsilons:
        """Return the epsilons before and after ``cost``.

        Raises:
            BudgetExceededError: the proved one would pass the cap.

        """
        delta = self.whole_delta(cost)
        after = totals.rdp(delta=delta, adding=cost)
        if self.epsilon is not None and not after <= self.epsilon:
            raise BudgetExceededError(
                f"privacy budget: this step would bring the lifetime epsilon to {after:.4g} at delta "
                f"{delta:.3g}, over the cap of {self.epsilon:g}; the merchant stays out."
            )
        return Epsilons(
            pld_before=finite(totals.pld(delta=delta)),
            pld_after=finite(totals.pld(delta=delta, adding=cost)),
            rdp_before=finite(totals.rdp(delta=delta)),
            rdp_after=finite(after),
            delta=delta,
        )

    def check_ahead(self, totals: Totals, charge: Charge, *, rounds: int) -> None:
        """Raise ``BudgetExceededError`` unless so many charges like this one would be taken."""
        delta = self.whole_delta(charge)
        after = totals.rdp_ahead(charge, charges=rounds, delta=delta)
        if self.epsilon is not None and rounds > 0 and not after <= self.epsilon:
            raise BudgetExceededError(
                f"policy 'lifetime_epsilon': the {rounds} rounds left of training "
                f"{charge.training_id[:16]} would bring it to {after:.4g} at delta {delta:.3g}, over the "
                f"cap of {self.epsilon:g}"
            )
