"""A merchant's lifetime ledger: one SQLite file, charged before anything leaves, never refunded.

It is made once, with the release of a noised count as its first entry, and never by opening: a ledger that is
gone is not begun anew. Triggers forbid changing or deleting rows, but what a reader can trust is the chain of
:mod:`fedrec.privacy.accounting.entries`: whoever edits the file by hand without the key is caught. A file
put back to an older state is caught by the head kept beside it, and where that was put back too, by the
server's next receipt (:mod:`fedrec.privacy.accounting.head`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType

from fedrec.errors import LedgerError, ProtocolError, RefusedError
from fedrec.privacy.accounting.cap import Cap
from fedrec.privacy.accounting.creation import create_ledger
from fedrec.privacy.accounting.database import LedgerFile
from fedrec.privacy.accounting.entries import (
    AnswerEntry,
    ChargeEntry,
    CountEntry,
    Entry,
    Epsilons,
    NewEntry,
    Row,
    Signer,
    Verification,
    Verifier,
    check_rows,
    spending,
    to_row,
)
from fedrec.privacy.accounting.filter import Reading
from fedrec.privacy.accounting.head import (
    check_head,
    check_receipt,
    hash_at,
    head_of,
    head_path,
    read_head,
    write_head,
)
from fedrec.privacy.accounting.history import History
from fedrec.privacy.accounting.kinds import Answer, Charge, Count, View
from fedrec.privacy.accounting.reading import read_entries, verify_file
from fedrec.privacy.accounting.versions import Opening
from fedrec.protocol.statements import (
    LEDGER_HEAD_CONTEXT,
    RECEIPT_CONTEXT,
    HeadMoment,
    LedgerHead,
    Receipt,
    SignedLedgerHead,
)

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


class Ledger:
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
        self._path = path
        self._signer = signer
        self._verify = verify
        self._on_event = on_event
        self._mutex = threading.RLock()
        self._cap = Cap(epsilon_lifetime, delta_lifetime)
        self._receipt: Receipt | None = None
        self._outdated: str | None = None
        self._file = LedgerFile(path, on_event=on_event)
        try:
            self._file.open()
            self._load()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise LedgerError(f"ledger: {path} cannot be opened ({error}).") from error
        except BaseException:
            self.close()
            raise

    def follow(self, *, epsilon_lifetime: float | None, delta_lifetime: float | None) -> None:
        """Hold every charge to come against this cap; ``LedgerError`` for an impossible one."""
        cap = Cap(epsilon_lifetime, delta_lifetime)
        with self._mutex:
            self._cap = cap

    def _load(self) -> None:
        """Read and check everything on disk, and count it."""
        public = self._signer.public
        outcome, entries = check_rows(self._file.rows(), public=public, verify=self._verify)
        if not outcome.ok:
            raise LedgerError(f"ledger: {self._path} is broken or of another merchant: {outcome.reason}.")
        openings = self._file.openings()
        head = read_head(head_path(self._path), public=public, verify=self._verify)
        history = History()
        for entry in entries:
            version = None
            if isinstance(entry, ChargeEntry):
                opening = openings.get(entry.sequence)
                if opening is None or not opening.opens(entry.data):
                    raise LedgerError(
                        f"ledger: {self._path} is broken: what opens entry {entry.sequence} is not there."
                    )
                version = opening.version
            history.add(entry, version=version)
        check_head(self._path, head, entries, public=public)
        if history.count is None:
            raise LedgerError(f"ledger: {self._path} is broken: it has no release of a count.")
        self._history = history
        if head is not None:
            self._receipt = head.receipt
            if head.entries < len(entries):
                self._write_head()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of the lock; closing twice is harmless."""
        self._file.close()

    @property
    def usable(self) -> bool:
        """Whether charges can be written; not once it is closed, or known to be an older copy."""
        return self._file.connection is not None

    def _check_open(self) -> None:
        if self._file.connection is None:
            raise LedgerError(self._outdated or f"ledger: {self._path} is closed.")

    def prepare(self, charge: Charge) -> None:
        """Work out the epsilons of all charges of a training like this one, so that each is then quick."""
        with self._mutex:
            self._history.lifetime.prepare(charge)

    def check_ahead(self, charge: Charge) -> None:
        """Raise unless all that a training still costs would be taken; writes nothing.

        ``charge`` is like each of its charges. Rounds up to the last one charged are over.

        Raises:
            BudgetExceededError: some of the rounds to come would pass the lifetime cap.
            RefusedError: the unit isn't the ledger's.

        """
        with self._mutex:
            self._check_open()
            left = charge.rounds - self._history.last_round(charge.training_id)
            self._check_unit(charge)
            self._cap.check_ahead(self._history.lifetime, charge, rounds=left)

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
        with self._mutex:
            self._check_open()
            found = self._history.charge(charge.key)
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
            self._history.lifetime.check_alike(charge)
            opening = Opening.fresh(version)
            entry = self._history.new_charge(charge, self._spend(charge), data=opening.commitment)
            return self._append(entry, opening)

    def release(self, count: Count) -> CountEntry:
        """Charge another release of the number of units; only then may it be told. Raises as :meth:`charge`.

        Its ``number`` follows from the releases that are there.
        """
        with self._mutex:
            self._check_open()
            held = self._history.count
            if held is None or count.unit != held.unit:
                raise RefusedError(f"ledger: it is of another unit than {count.unit}")
            count = replace(count, number=held.number + 1)
            return self._append(self._history.new_count(count, self._spend(count)))

    def answer(self, answer: Answer) -> AnswerEntry:
        """Write down that a request is answered, before it is.

        Raises:
            RefusedError: this round has an answer, whatever request it was to; nothing is written.
            LedgerError: the disk fails: then nothing may leave.

        """
        with self._mutex:
            self._check_open()
            if self._history.has_answer(answer.training_id, answer.round_number):
                raise RefusedError(f"round {answer.round_number} already has an answer: it isn't tried again")
            return self._append(self._history.new_answer(answer))

    def declared(self, unit: str) -> int | None:
        """Return the noised size that the last release told of this unit, None where it is of another."""
        with self._mutex:
            count = self._history.count
            return count.size if count is not None and count.unit == unit else None

    @property
    def begun(self) -> bool:
        """Whether a round was charged or answered yet: from then on a request has to bring a receipt."""
        with self._mutex:
            return self._history.begun

    def has_charge(self, training_id: str, round_number: int) -> bool:
        """Whether a round was charged."""
        with self._mutex:
            return self._history.charge(f"charge/{training_id}/{round_number}/0") is not None

    def has_answer(self, training_id: str, round_number: int) -> bool:
        """Whether a request of a round was answered."""
        with self._mutex:
            return self._history.has_answer(training_id, round_number)

    def _check_unit(self, charge: Charge) -> None:
        # An epsilon is of one unit: a bound for photos bounds no product of many, and a photo that comes or
        # goes turns its product into another, which is one product removed and one added.
        held = self._history.count
        if held is not None and charge.unit != held.unit:
            raise RefusedError(
                f"ledger: everything in it hides a {held.unit}; a training that hides a {charge.unit} "
                "can't be added to it",
                code="policy",
            )

    def _spend(self, cost: Charge | Count) -> Epsilons:
        return self._cap.epsilons(self._history.lifetime, cost)

    def _append(self, entry: NewEntry, opening: Opening | None = None) -> NewEntry:
        written, row = to_row(entry, previous=self.head()[1], signer=self._signer)
        self._write(row, opening)
        self._history.add(written, version=None if opening is None else opening.version)
        self._write_head()
        return written

    def _write(self, row: Row, opening: Opening | None) -> None:
        try:
            self._file.append(row, opening)
        except sqlite3.Error as error:
            self._recover()
            raise LedgerError(f"ledger: {self._path} cannot be written ({error}).") from error

    def _recover(self) -> None:
        """After a failed write, take what the disk says, or close if it can't be read."""
        try:
            self._file.roll_back()
            self._load()
        except (sqlite3.Error, LedgerError):
            self.close()

    def _write_head(self) -> None:
        head = head_of(self._history.entries, public=self._signer.public, receipt=self._receipt)
        write_head(head_path(self._path), head, signer=self._signer, on_event=self._on_event)

    def head(self) -> tuple[int, bytes]:
        """Return the number of entries and the hash of the last."""
        entries = self._history.entries
        return len(entries), hash_at(entries, len(entries), public=self._signer.public)

    def signed_head(
        self, *, training_id: str, round_number: int, merchant: str, moment: HeadMoment
    ) -> SignedLedgerHead:
        """Return the head's hash, signed for a server that will give it back in a receipt."""
        with self._mutex:
            statement = LedgerHead(
                training_id=training_id,
                round_number=round_number,
                merchant=merchant,
                moment=moment,
                head_hash=self.head()[1].hex(),
            )
            signature = self._signer.sign(statement.canonical_bytes(), context=LEDGER_HEAD_CONTEXT)
            return SignedLedgerHead(statement=statement, signature=signature.hex())

    def accept_receipt(self, receipt: Receipt) -> None:
        """Keep a receipt if it is the newest, and see that this ledger holds the entry that it is for.

        A receipt counts because this merchant signed the head in it; the server's signature makes it
        evidence for others. Once a receipt shows that the ledger is an older copy, it stays refused.

        Raises:
            ProtocolError: this merchant didn't sign the head, or the server's signature is wrong.
            LedgerError: the ledger was put back to an older state, or the disk fails.

        """
        with self._mutex:
            self._check_open()
            head = receipt.head
            if not self._verify(
                self._signer.public,
                head.statement.canonical_bytes(),
                bytes.fromhex(head.signature),
                context=LEDGER_HEAD_CONTEXT,
            ):
                raise ProtocolError("a ledger receipt holds a head that this merchant didn't sign")
            if not self._verify(
                bytes.fromhex(receipt.server_key),
                head.canonical_bytes(),
                bytes.fromhex(receipt.signature),
                context=RECEIPT_CONTEXT,
            ):
                raise ProtocolError("a ledger receipt is not signed by the key that it names")
            try:
                check_receipt(self._path, receipt, self._history.entries)
            except LedgerError as error:
                self._outdated = str(error)
                # The lock stays: another process would only find the same, and this one still runs.
                self._file.close_database()
                self._receipt = receipt
                self._write_head()
                raise
            if self._receipt is None or self._position(receipt) > self._position(self._receipt):
                self._receipt = receipt
                self._write_head()

    def _position(self, receipt: Receipt) -> int:
        """The number of the entry that a receipt is for."""
        wanted = bytes.fromhex(receipt.head.statement.head_hash)
        entries = reversed(self._history.entries)
        return next((entry.sequence for entry in entries if entry.hash == wanted), 0)

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries in order."""
        with self._mutex:
            return tuple(self._history.entries)

    def rounds_since(self, moment: datetime) -> int:
        """Return how many rounds were charged at ``moment`` (with a time zone) or later."""
        with self._mutex:
            return self._history.rounds_since(moment)

    def reading(self, *, view: View = "server") -> Reading:
        """Read what everything charged counts against the cap, and what is left of it.

        Without a cap, as in simulations, at a nominal one and the delta of what was charged last.
        """
        with self._mutex:
            last = spending(self._history.entries)[-1].cost
            return self._cap.read(self._history.lifetime, delta=last.delta, view=view)

    @property
    def has_cap(self) -> bool:
        """Whether charges are held against a cap."""
        with self._mutex:
            return self._cap.epsilon is not None

    def verify(self) -> Verification:
        """Check chain and signatures afresh from the disk, naming the first entry that fails.

        Raises:
            LedgerError: the ledger is closed or can't be read.

        """
        with self._mutex:
            self._check_open()
            try:
                rows = self._file.rows()
            except sqlite3.Error as error:
                raise LedgerError(f"ledger: {self._path} cannot be read ({error}).") from error
            outcome, _ = check_rows(rows, public=self._signer.public, verify=self._verify)
            known = len(self._history.entries)
            if outcome.ok and outcome.entries != known:
                reason = f"{known} entries were written but {outcome.entries} are there"
                return Verification(False, outcome.entries, outcome.entries + 1, reason)
            return outcome
