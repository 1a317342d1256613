"""What is asked of an open ledger, by the steps of a training and by a person who looks."""

from __future__ import annotations

from datetime import datetime

from fedrec.privacy.accounting.ledger_chain import LedgerChain
from fedrec.privacy.accounting.ledger_entries import Entry, spending
from fedrec.privacy.accounting.lifetime_cap import LifetimeCap
from fedrec.privacy.accounting.lifetime_filter import FilterReading
from fedrec.privacy.accounting.privacy_spend import View


class LedgerView:
    """Answers about the entries of a chain, under a cap. Safe to use from several threads."""

    def __init__(self, chain: LedgerChain, cap: LifetimeCap) -> None:
        self._chain = chain
        self._cap = cap

    @property
    def usable(self) -> bool:
        """Whether charges can be written; not once it is closed, or known to be an older copy."""
        return self._chain.is_open

    @property
    def has_cap(self) -> bool:
        """Whether charges are held against a cap."""
        with self._chain.mutex:
            return self._cap.epsilon is not None

    @property
    def begun(self) -> bool:
        """Whether a round was charged or answered yet: from then on a request has to bring a receipt."""
        with self._chain.mutex:
            return self._chain.history.begun

    def has_charge(self, training_id: str, round_number: int) -> bool:
        """Whether a round was charged."""
        with self._chain.mutex:
            return self._chain.history.charge(f"charge/{training_id}/{round_number}/0") is not None

    def has_answer(self, training_id: str, round_number: int) -> bool:
        """Whether a request of a round was answered."""
        with self._chain.mutex:
            return self._chain.history.has_answer(training_id, round_number)

    def declared(self, unit: str) -> int | None:
        """Return the noised size that the last release told of this unit, None where it is of another."""
        with self._chain.mutex:
            count = self._chain.history.count
            return count.size if count is not None and count.unit == unit else None

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries in order."""
        with self._chain.mutex:
            return tuple(self._chain.history.entries)

    def rounds_since(self, moment: datetime) -> int:
        """Return how many rounds were charged at ``moment`` (with a time zone) or later."""
        with self._chain.mutex:
            return self._chain.history.rounds_since(moment)

    def head(self) -> tuple[int, bytes]:
        """Return the number of entries and the hash of the last."""
        return self._chain.head()

    def reading(self, *, view: View = "server") -> FilterReading:
        """Read what everything charged counts against the cap, and what is left of it.

        Without a cap, as in simulations, at a nominal one and the delta of what was charged last.
        """
        with self._chain.mutex:
            history = self._chain.history
            last = spending(history.entries)[-1].cost
            return self._cap.read(history.lifetime, delta=last.delta, view=view)
