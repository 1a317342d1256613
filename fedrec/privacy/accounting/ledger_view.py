"""Answer queries about an open ledger, for training steps and for the status page."""

from __future__ import annotations

from datetime import datetime

from fedrec.privacy.accounting.entry_contents import charge_key
from fedrec.privacy.accounting.ledger_chain import LedgerChain
from fedrec.privacy.accounting.ledger_entries import Entry, spending
from fedrec.privacy.accounting.lifetime_cap import LifetimeCap
from fedrec.privacy.accounting.privacy_filter import FilterReading
from fedrec.privacy.accounting.privacy_spend import View


class LedgerView:
    """Read access to the entries of a chain under a cap. It is safe to use from several threads.

    Args:
        chain: the open ledger.
        cap: the lifetime cap.
    """

    def __init__(self, chain: LedgerChain, cap: LifetimeCap) -> None:
        self._chain = chain
        self._cap = cap

    @property
    def usable(self) -> bool:
        """Whether charges can be written: not after closing, nor once a receipt shows an older copy."""
        return self._chain.is_open

    @property
    def has_cap(self) -> bool:
        """Whether a lifetime cap is set."""
        with self._chain.mutex:
            return self._cap.epsilon is not None

    @property
    def begun(self) -> bool:
        """Whether any round was charged or answered; from then on a request must contain a receipt."""
        with self._chain.mutex:
            return self._chain.history.begun

    def has_charge(self, training_id: str, round_number: int) -> bool:
        """Tell whether a round was charged.

        Args:
            training_id: the training.
            round_number: the round.

        Returns:
            Whether a charge was written.
        """
        with self._chain.mutex:
            return self._chain.history.charge(charge_key(training_id, round_number)) is not None

    def has_answer(self, training_id: str, round_number: int) -> bool:
        """Tell whether a request of a round was answered.

        Args:
            training_id: the training.
            round_number: the round.

        Returns:
            Whether an answer was written.
        """
        with self._chain.mutex:
            return self._chain.history.has_answer(training_id, round_number)

    def declared(self, unit: str) -> int | None:
        """Return the noisy count of the last release; None if it counts another unit."""
        with self._chain.mutex:
            count = self._chain.history.count
            return count.size if count is not None and count.unit == unit else None

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries in order."""
        with self._chain.mutex:
            return tuple(self._chain.history.entries)

    def rounds_since(self, moment: datetime) -> int:
        """Count the rounds charged at ``moment`` (with a time zone) or later."""
        with self._chain.mutex:
            return self._chain.history.rounds_since(moment)

    def head(self) -> tuple[int, bytes]:
        """Return the number of entries and the hash of the last."""
        return self._chain.head()

    def reading(self, *, view: View = "server") -> FilterReading:
        """Evaluate the lifetime filter for everything charged.

        Args:
            view: the view that noise multipliers are taken from.

        Returns:
            What was spent and what is left of the cap. Without a cap, as in simulations, the filter is
            evaluated at a nominal cap and the delta of the last charge.
        """
        with self._chain.mutex:
            history = self._chain.history
            last = spending(history.entries)[-1].cost
            return self._cap.read(history.lifetime, delta=last.delta, view=view)
