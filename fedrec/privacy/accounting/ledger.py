"""A merchant's lifetime ledger: one SQLite file, charged before anything leaves, never refunded.

It is made once, with the release of a noised count as its first entry, and never by opening: a ledger that is
gone is not begun anew. Triggers forbid changing or deleting rows, but what a reader can trust is the chain of
:mod:`fedrec.privacy.accounting.ledger_entries`: whoever edits the file without the key is caught. A file
put back to an older state is caught by the head kept beside it, and where that was put back too, by the
server's next receipt (:mod:`fedrec.privacy.accounting.ledger_head`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from fedrec.errors import LedgerError, RefusedError
from fedrec.privacy.accounting import ledger_receipts
from fedrec.privacy.accounting.data_commitment import Opening
from fedrec.privacy.accounting.entry_contents import Answer, Charge, Count
from fedrec.privacy.accounting.ledger_chain import LedgerChain
from fedrec.privacy.accounting.ledger_creation import create_ledger
from fedrec.privacy.accounting.ledger_entries import (
    AnswerEntry,
    ChargeEntry,
    CountEntry,
    Epsilons,
    Signer,
    Verification,
    Verifier,
)
from fedrec.privacy.accounting.ledger_reader import read_entries, verify_file
from fedrec.privacy.accounting.ledger_view import LedgerView
from fedrec.privacy.accounting.lifetime_cap import LifetimeCap
from fedrec.protocol.statements import HeadMoment, Receipt, SignedLedgerHead

__all__ = [
    "Answer",
    "Charge",
    "Count",
    "Ledger",
    "Verification",
    "create_ledger",
    "read_entries",
    "verify_file",
]


class Ledger(LedgerView):
    """The open ledger of one merchant: one writer at a time, across processes.

    Use as a context manager. Safe to use from several threads.

    Args:
        path: the SQLite file that :func:`create_ledger` made; ``path`` + ".lock" is held while open, and
            ``path`` + ".head" kept beside it.
        signer: the merchant's identity.
        verify: checks signatures of entries already there.
        epsilon_lifetime: cap on what the lifetime filter counts for all entries; needs ``delta_lifetime``.
        delta_lifetime: the delta at which the cap holds; every charge's beta * steps comes out of it.
        on_event: told each step of writing, for tests that stop there.

    Raises:
        LedgerError: it or its head is missing, another process holds it, it is broken, older than its head,
            or of another merchant, or can't be written.

    """

    def __init__(
        self,
        path: Path,
        *,
        signer: Signer,
        verify: Verifier,
        epsilon_lifetime: float | None = None,
        delta_lifetime: float | None = None,
        on_event: Callable[[str], None] = lambda event: None,
    ) -> None:
        cap = LifetimeCap(epsilon_lifetime, delta_lifetime)
        super().__init__(LedgerChain(path, signer=signer, verify=verify, on_event=on_event), cap)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of the lock; closing twice is harmless."""
        self._chain.close()

    def set_cap(self, *, epsilon_lifetime: float | None, delta_lifetime: float | None) -> None:
        """Hold every charge to come against this cap; ``LedgerError`` for an impossible one."""
        cap = LifetimeCap(epsilon_lifetime, delta_lifetime)
        with self._chain.mutex:
            self._cap = cap

    def prepare(self, charge: Charge) -> None:
        """Work out the epsilons of all charges of a training like this one, so that each is then quick."""
        with self._chain.mutex:
            self._chain.history.lifetime.prepare(charge)

    def check_ahead(self, charge: Charge) -> None:
        """Raise unless all that a training still costs would be taken; writes nothing.

        ``charge`` is like each of its charges. Rounds up to the last one charged are over.

        Raises:
            BudgetExceededError: some of the rounds to come would pass the lifetime cap.
            RefusedError: the unit isn't the ledger's.

        """
        with self._chain.mutex:
            self._chain.check_open()
            left = charge.rounds - self._chain.history.last_round(charge.training_id)
            self._check_unit(charge)
            self._cap.check_ahead(self._chain.history.lifetime, charge, rounds=left)

    def charge(self, charge: Charge, *, version: str) -> ChargeEntry:
        """Write a charge and return its entry, once it is on disk.

        ``version`` names the data that it is of, and stays here: the entry commits to it under a fresh salt.
        Charging the very same thing again returns the entry that is there, with ``already_charged``
        set, and costs nothing.

        Raises:
            BudgetExceededError: the charge would pass the lifetime cap; nothing is written.
            RefusedError: the unit isn't the ledger's; nothing is written.
            LedgerError: something else stands under this key, a field is out of range, the training was begun
                with other rates, noise or rounds, or the disk fails; then the charge may stand, and nothing
                may leave.

        """
        with self._chain.mutex:
            self._chain.check_open()
            found = self._chain.history.charge(charge.key)
            if found is not None:
                # An upgrade or a new rule between the two changes what is named, not what was spent.
                same = replace(found.charge, code=charge.code, policy_hash=charge.policy_hash)
                if same != charge:
                    raise LedgerError(
                        f"ledger: round {charge.round_number} step {charge.step} of training "
                        f"{charge.training_id[:12]} was charged with other values; it can't be charged again."
                    )
                return replace(found, already_charged=True)
            if charge.steps < 1 or charge.step < 0 or charge.round_number < 0 or not 0 <= charge.beta < 1:
                raise LedgerError("ledger: a charge needs steps >= 1, step and round >= 0, beta in [0, 1).")
            self._check_unit(charge)
            self._chain.history.lifetime.check_alike(charge)
            opening = Opening.fresh(version)
            entry = self._chain.history.new_charge(charge, self._spend(charge), data=opening.commitment)
            return self._chain.append(entry, opening)

    def release(self, count: Count) -> CountEntry:
        """Charge another release of the number of units; only then may it be told. Raises as :meth:`charge`.

        Its ``number`` follows from the releases that are there.
        """
        with self._chain.mutex:
            self._chain.check_open()
            held = self._chain.history.count
            if held is None or count.unit != held.unit:
                raise RefusedError(f"ledger: it is of another unit than {count.unit}")
            count = replace(count, number=held.number + 1)
            return self._chain.append(self._chain.history.new_count(count, self._spend(count)))

    def answer(self, answer: Answer) -> AnswerEntry:
        """Write down that a request is answered, before it is.

        Raises:
            RefusedError: this round has an answer, whatever request it was to; nothing is written.
            LedgerError: the disk fails: then nothing may leave.

        """
        with self._chain.mutex:
            self._chain.check_open()
            if self._chain.history.has_answer(answer.training_id, answer.round_number):
                raise RefusedError(f"round {answer.round_number} already has an answer: it isn't tried again")
            return self._chain.append(self._chain.history.new_answer(answer))

    def _check_unit(self, charge: Charge) -> None:
        # An epsilon is of one unit: a bound for photos bounds no product of many, and a photo that comes or
        # goes turns its product into another, which is one product removed and one added.
        held = self._chain.history.count
        if held is not None and charge.unit != held.unit:
            raise RefusedError(
                f"ledger: everything in it hides a {held.unit}; a training that hides a {charge.unit} "
                "can't be added to it",
                code="policy",
            )

    def _spend(self, cost: Charge | Count) -> Epsilons:
        return self._cap.epsilons(self._chain.history.lifetime, cost)

    def signed_head(
        self, *, training_id: str, round_number: int, merchant: str, moment: HeadMoment
    ) -> SignedLedgerHead:
        """Return the head's hash, signed for a server that will give it back in a receipt."""
        with self._chain.mutex:
            return ledger_receipts.sign_head(
                self._chain,
                training_id=training_id,
                round_number=round_number,
                merchant=merchant,
                moment=moment,
            )

    def accept_receipt(self, receipt: Receipt) -> None:
        """Keep a newer receipt; raises as :func:`ledger_receipts.accept_receipt` does."""
        with self._chain.mutex:
            ledger_receipts.accept_receipt(self._chain, receipt)

    def verify(self) -> Verification:
        """Check chain and signatures afresh from the disk, naming the first entry that fails.

        Raises:
            LedgerError: the ledger is closed or can't be read.

        """
        with self._chain.mutex:
            return self._chain.check()
