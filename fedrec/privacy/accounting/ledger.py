"""Charge a merchant's lifetime ledger, one SQLite file, before any result leaves the machine.

A ledger is created once, by :mod:`fedrec.privacy.accounting.ledger_creation`, with the release of a noised
count as its first entry. Opening a missing ledger is an error and never creates one. Charges are never
refunded. Triggers refuse changed or deleted rows, and the chain of
:mod:`fedrec.privacy.accounting.entry_encoding` reveals any edit by someone without the key. The head file
(:mod:`fedrec.privacy.accounting.ledger_head`) reveals a ledger that was restored to an older state; where the
head file was put back with it, the server's next receipt does.
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
from fedrec.privacy.accounting.entry_encoding import Verification
from fedrec.privacy.accounting.key_rotation import KeyRotation, Signer, Verifier, rotation_holds
from fedrec.privacy.accounting.ledger_chain import LedgerChain
from fedrec.privacy.accounting.ledger_entries import (
    AnswerEntry,
    ChargeEntry,
    CountEntry,
    Epsilons,
    RotationEntry,
    rotations,
)
from fedrec.privacy.accounting.ledger_view import LedgerView
from fedrec.privacy.accounting.lifetime_cap import LifetimeCap
from fedrec.protocol.roster_statements import SignedRotation
from fedrec.protocol.statements import HeadMoment, Receipt, SignedLedgerHead


class Ledger(LedgerView):
    """The open ledger of one merchant, with one writer at a time across processes.

    Use it as a context manager. It is safe to use from several threads.

    Args:
        path: the SQLite file that ``create_ledger`` made; ``path`` + ".lock" is locked while open, and
            ``path`` + ".head" is the head file.
        signer: the merchant's identity.
        verify: function that checks the signatures of existing entries.
        epsilon_lifetime: cap on the lifetime filter's epsilon of all entries; needs ``delta_lifetime``.
        delta_lifetime: the delta of the cap; it includes beta * steps of every charge.
        on_event: called with the name of each step of writing; tests interrupt writing there.

    Raises:
        LedgerError: the ledger or its head file is missing, locked by another process, broken, older than its
            head, or of another merchant, or it can't be written.
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
        """Close the file and release the lock; closing twice is harmless."""
        self._chain.close()

    def set_cap(self, *, epsilon_lifetime: float | None, delta_lifetime: float | None) -> None:
        """Set the lifetime cap for all later charges.

        Args:
            epsilon_lifetime: the cap; None for none.
            delta_lifetime: the delta of the cap; None for no cap.

        Raises:
            LedgerError: only one of the two is given, or one is out of range.
        """
        cap = LifetimeCap(epsilon_lifetime, delta_lifetime)
        with self._chain.mutex:
            self._cap = cap

    def prepare(self, charge: Charge) -> None:
        """Compute the epsilons of all charges of a training in advance, so that each charge is quick."""
        with self._chain.mutex:
            self._chain.history.lifetime.prepare(charge)

    def check_ahead(self, charge: Charge, *, figures: Charge | None = None) -> None:
        """Check that all remaining rounds of a training fit the cap; write nothing.

        The remaining rounds are those after the last charged one.

        Args:
            charge: a charge like each of the training's.
            figures: the charge of its site figures; None where the plan asks for none.

        Raises:
            BudgetExceededError: the remaining rounds would pass the lifetime cap.
            LedgerError: the ledger is closed.
            RefusedError: the charge's unit isn't the ledger's.
        """
        with self._chain.mutex:
            self._chain.check_open()
            last = self._chain.history.last_round(charge.training_id)
            self._check_unit(charge)
            if figures is not None and last >= figures.round_number:
                figures = None
            self._cap.check_ahead(
                self._chain.history.lifetime, charge, rounds=charge.rounds - last, figures=figures
            )

    def charge(self, charge: Charge, *, version: str) -> ChargeEntry:
        """Write a charge to disk.

        Charging an equal charge again costs nothing and returns the existing entry, with ``already_charged``
        set.

        Args:
            charge: the charge.
            version: name of the dataset version. It stays on this machine; the entry commits to it with a
                fresh salt.

        Returns:
            The charge's entry, which is on disk.

        Raises:
            BudgetExceededError: the charge would pass the lifetime cap; nothing is written.
            RefusedError: the charge's unit isn't the ledger's; nothing is written.
            LedgerError: a different charge has this key, a field is out of range, the training began with
                another rate, noise or number of rounds, or the disk fails. After a disk failure the charge
                may have been written, and no result may leave the machine.
        """
        with self._chain.mutex:
            self._chain.check_open()
            found = self._chain.history.charge(charge.key)
            if found is not None:
                # A new version of fedrec or of the policy since then changes the names, not what was spent.
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
        """Charge another release of the number of units; the count may be released only after this returns.

        Args:
            count: the release; its ``number`` is set to the next one.

        Returns:
            The release's entry, which is on disk.

        Raises:
            BudgetExceededError: the release would pass the lifetime cap; nothing is written.
            RefusedError: the release's unit isn't the ledger's; nothing is written.
            LedgerError: the ledger is closed or the disk fails.
        """
        with self._chain.mutex:
            self._chain.check_open()
            held = self._chain.history.count
            if held is None or count.unit != held.unit:
                raise RefusedError(f"ledger: its unit is not {count.unit}")
            count = replace(count, number=held.number + 1)
            return self._chain.append(self._chain.history.new_count(count, self._spend(count)))

    def answer(self, answer: Answer) -> AnswerEntry:
        """Record the answer to an opening request, before the answer is computed.

        Args:
            answer: the round and the request.

        Returns:
            The answer's entry, which is on disk.

        Raises:
            RefusedError: a request of this round was answered before; nothing is written.
            LedgerError: the ledger is closed or the disk fails; no answer may leave the machine.
        """
        with self._chain.mutex:
            self._chain.check_open()
            if self._chain.history.has_answer(answer.training_id, answer.round_number):
                raise RefusedError(f"round {answer.round_number} already has an answer: it isn't tried again")
            return self._chain.append(self._chain.history.new_answer(answer))

    def rotate(self, signed: SignedRotation, *, signer: Signer) -> RotationEntry:
        """Record the exchange of the merchant's identity key; what was spent stays spent.

        Args:
            signed: the exchange, signed by both keys.
            signer: the merchant's identity from now on.

        Returns:
            The exchange's entry, which is on disk.

        Raises:
            LedgerError: the exchange doesn't lead from the present key to the new one or was made before, the
                ledger is closed, or the disk fails.
        """
        with self._chain.mutex:
            self._chain.check_open()
            stated, entries = signed.statement, self._chain.history.entries
            used = {rotation.old_key for rotation in rotations(entries)}
            if (
                (stated.old_key, stated.new_key) != (self._chain.signer.public.hex(), signer.public.hex())
                or stated.new_key in used
                or not rotation_holds(signed, verify=self._chain.verify)
            ):
                raise LedgerError("ledger: this exchange of keys doesn't follow from the present key.")
            entry = self._chain.history.new_rotation(KeyRotation.of(signed))
            return self._chain.rotate(entry, signer=signer)

    def _check_unit(self, charge: Charge) -> None:
        # An epsilon holds for one unit. A bound for photos doesn't bound a product with several photos, and
        # adding a photo changes its product, which amounts to one product removed and another added.
        held = self._chain.history.count
        if held is not None and charge.unit != held.unit:
            raise RefusedError(
                f"ledger: its epsilons protect a {held.unit}; a training that protects a {charge.unit} can't "
                "be added to it",
                code="policy",
            )

    def _spend(self, cost: Charge | Count) -> Epsilons:
        return self._cap.epsilons(self._chain.history.lifetime, cost)

    def signed_head(
        self, *, training_id: str, round_number: int, merchant: str, moment: HeadMoment
    ) -> SignedLedgerHead:
        """Sign the head's hash for the server, which returns it in a receipt.

        Args:
            training_id: the training that the head is signed for.
            round_number: the round.
            merchant: name of the merchant.
            moment: when in the round it is signed.

        Returns:
            The signed head.
        """
        with self._chain.mutex:
            return ledger_receipts.sign_head(
                self._chain,
                training_id=training_id,
                round_number=round_number,
                merchant=merchant,
                moment=moment,
            )

    def accept_receipt(self, receipt: Receipt) -> None:
        """Check a receipt and keep it if it is the newest, as :func:`ledger_receipts.accept_receipt`."""
        with self._chain.mutex:
            ledger_receipts.accept_receipt(self._chain, receipt)

    def verify(self) -> Verification:
        """Read the entries from disk again and check the chain and all signatures.

        Returns:
            The outcome, with the first entry that fails.

        Raises:
            LedgerError: the ledger is closed or can't be read.
        """
        with self._chain.mutex:
            return self._chain.check()
