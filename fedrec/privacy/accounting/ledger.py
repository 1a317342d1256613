"""A merchant's lifetime ledger: one SQLite file, charged before anything leaves, never refunded.

Triggers forbid changing or deleting rows, but what a reader can trust is the chain of
:mod:`fedrec.privacy.accounting.entries`: whoever edits the file by hand without the key is caught. A file
put back to an older state is caught by the head kept beside it, and where that was put back too, by the
server's next receipt (:mod:`fedrec.privacy.accounting.head`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal

from fedrec.errors import BudgetExceededError, LedgerError, ProtocolError, RefusedError
from fedrec.privacy.accounting.entries import (
    SELECT,
    Charge,
    Entry,
    Epsilons,
    Signer,
    Verification,
    Verifier,
    View,
    check_rows,
    finite,
    to_row,
)
from fedrec.privacy.accounting.events import accountant_versions
from fedrec.privacy.accounting.head import (
    check_head,
    check_receipt,
    hash_at,
    head_of,
    head_path,
    read_head,
    write_head,
)
from fedrec.privacy.accounting.prepared import Totals
from fedrec.privacy.accounting.reading import read_entries, verify_file
from fedrec.protocol.statements import (
    LEDGER_HEAD_CONTEXT,
    RECEIPT_CONTEXT,
    LedgerHead,
    Receipt,
    SignedLedgerHead,
)

__all__ = ["Charge", "Entry", "Ledger", "Verification", "read_entries", "verify_file"]

_SCHEMA = """
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY, training_id TEXT NOT NULL, round_number INTEGER NOT NULL,
    step INTEGER NOT NULL, payload TEXT NOT NULL, hash BLOB NOT NULL, signature BLOB NOT NULL,
    UNIQUE (training_id, round_number, step));
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
PRAGMA user_version = 1;
"""
_VERSION = 1
ChangedData = Literal["refuse", "count_together"]


class Ledger:
    """The open ledger of one merchant: one writer at a time, across processes.

    Use as a context manager. Safe to use from several threads.

    Args:
        path: the SQLite file, made with mode 0600 if absent; ``path`` + ".lock" is held while open, and
            ``path`` + ".head" kept beside it.
        signer: the merchant's identity.
        verify: checks signatures of entries already there.
        epsilon_lifetime: cap on the RDP epsilon of all entries together; needs ``delta_lifetime``.
        delta_lifetime: the delta at which the cap holds; every charge's beta * steps comes out of it.
        changed_data: what to do with a charge for another dataset version than the last entry's.
            ``count_together`` takes it: all charges count against every record, whichever it was in.
        on_event: told each step of writing, for tests that stop there.

    Raises:
        LedgerError: another process holds it, it is broken, older than its head, or of another merchant, or
            can't be written.

    """

    def __init__(
        self,
        path: Path,
        *,
        signer: Signer,
        verify: Verifier,
        epsilon_lifetime: float | None = None,
        delta_lifetime: float | None = None,
        changed_data: ChangedData = "refuse",
        on_event: Callable[[str], None] = lambda event: None,
    ) -> None:
        self._path = path
        self._head_path = head_path(path)
        self._signer = signer
        self._verify = verify
        self._on_event = on_event
        self._mutex = threading.RLock()
        self.follow(
            epsilon_lifetime=epsilon_lifetime, delta_lifetime=delta_lifetime, changed_data=changed_data
        )
        self._connection: sqlite3.Connection | None = None
        self._receipt: Receipt | None = None
        self._outdated: str | None = None
        self._lock = self._take_lock()
        try:
            self._connection = self._connect()
            self._load()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise LedgerError(f"ledger: {path} cannot be opened ({error}).") from error
        except BaseException:
            self.close()
            raise

    def follow(
        self, *, epsilon_lifetime: float | None, delta_lifetime: float | None, changed_data: ChangedData
    ) -> None:
        """Hold every charge to come against this cap and rule; ``LedgerError`` for an impossible cap."""
        if (epsilon_lifetime is None) != (delta_lifetime is None):
            raise LedgerError("ledger: a lifetime cap needs both epsilon and delta.")
        if epsilon_lifetime is not None and not epsilon_lifetime > 0:
            raise LedgerError(f"ledger: the lifetime epsilon {epsilon_lifetime} must be positive.")
        if delta_lifetime is not None and not 0 < delta_lifetime < 1:
            raise LedgerError(f"ledger: the lifetime delta {delta_lifetime} is outside (0, 1).")
        with self._mutex:
            self._epsilon_lifetime = epsilon_lifetime
            self._delta_lifetime = delta_lifetime
            self._changed_data: ChangedData = changed_data

    def _take_lock(self) -> int:
        try:
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(f"ledger: {self._path} cannot be locked ({error}).") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise LedgerError(
                f"ledger: {self._path} is in use by another process; stop that one first."
            ) from error
        return lock

    def _connect(self) -> sqlite3.Connection:
        # Made before SQLite sees it, so that it is never readable by others, not even for an instant.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._path.chmod(0o600)
        self._on_event("file made")
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
            # EXTRA also syncs the folder once the journal is gone: a commit survives a power cut.
            connection.execute("PRAGMA synchronous = EXTRA")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._create(connection)
            elif version != _VERSION:
                raise LedgerError(
                    f"ledger: {self._path} has format {version}, this version of fedrec writes {_VERSION}."
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        # The head comes first: a ledger with a table and no head is never the work of a crash.
        if read_head(self._head_path, public=self._signer.public, verify=self._verify) is None:
            self._write_head([])
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        self._on_event("table made")

    def _load(self) -> None:
        """Read and check everything on disk, and count it."""
        public = self._signer.public
        outcome, entries = check_rows(
            self._open_connection().execute(SELECT), public=public, verify=self._verify
        )
        if not outcome.ok:
            raise LedgerError(f"ledger: {self._path} is broken or of another merchant: {outcome.reason}.")
        head = read_head(self._head_path, public=public, verify=self._verify)
        self._entries = entries
        self._by_key = {entry.charge.key: entry for entry in entries}
        self._totals = Totals()
        for entry in entries:
            self._totals.add(entry.charge)
        check_head(self._path, head, entries, public=public)
        if head is not None:
            self._receipt = head.receipt
            if head.entries < len(entries):
                self._write_head(entries)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of the lock; closing twice is harmless."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def usable(self) -> bool:
        """Whether charges can be written; not once it is closed, or known to be an older copy."""
        return self._connection is not None

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LedgerError(self._outdated or f"ledger: {self._path} is closed.")
        return self._connection

    def prepare(self, charge: Charge, *, charges: int) -> None:
        """Work out the epsilons of ``charges`` charges like this one to come, so that each is then quick."""
        with self._mutex:
            self._totals.prepare(charge, charges=charges, delta=self._whole_delta(charge))

    def check_ahead(self, charge: Charge, *, rounds: int) -> None:
        """Raise unless all that a training of so many rounds still costs would be taken; writes nothing.

        ``charge`` is like each of its charges. Rounds up to the last one charged are over.

        Raises:
            BudgetExceededError: some of the rounds to come would pass the lifetime cap.
            RefusedError: the data or the unit aren't those of the last entry, as :meth:`charge`.

        """
        with self._mutex:
            self._open_connection()
            done = [key[1] for key in self._by_key if key[0] == charge.training_id]
            left = rounds - max(done, default=0)
            self._check_unit(charge)
            self._check_data(charge)
            delta = self._whole_delta(charge)
            after = self._totals.rdp_ahead(charge, charges=left, delta=delta)
            if self._epsilon_lifetime is not None and left > 0 and not after <= self._epsilon_lifetime:
                raise BudgetExceededError(
                    f"policy 'lifetime_epsilon': the {left} rounds left of training "
                    f"{charge.training_id[:16]} would bring it to {after:.4g} at delta {delta:.3g}, over the "
                    f"cap of {self._epsilon_lifetime:g}"
                )

    def charge(self, charge: Charge) -> Entry:
        """Write a charge and return its entry, once it is on disk.

        Charging the very same thing again returns the entry that is there, with ``already_charged``
        set, and costs nothing.

        Raises:
            BudgetExceededError: the charge would pass the lifetime cap; nothing is written.
            RefusedError: the data changed since the last entry, and there is no rule for that, or the unit
                did; nothing is written.
            LedgerError: something else stands under this key, a field is out of range, or the disk fails;
                then the charge may stand, and nothing may leave.

        """
        with self._mutex:
            self._open_connection()
            found = self._by_key.get(charge.key)
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
            self._check_data(charge)
            return self._append(charge, self._epsilons(charge))

    def _check_unit(self, charge: Charge) -> None:
        # An epsilon is of one unit: a bound for photos bounds no product of many, and a photo that comes or
        # goes turns its product into another, which is one product removed and one added.
        if self._entries and charge.unit != (unit := self._entries[-1].charge.unit):
            raise RefusedError(
                f"ledger: everything charged so far hides a {unit}; a training that hides a {charge.unit} "
                "can't be added to it"
            )

    def _check_data(self, charge: Charge) -> None:
        if self._changed_data == "refuse" and self._entries:
            last = self._entries[-1].charge.dataset_version
            if charge.dataset_version != last:
                raise RefusedError("policy 'changed_data': the photos changed since the last charge")

    def _whole_delta(self, charge: Charge) -> float:
        return charge.delta if self._delta_lifetime is None else self._delta_lifetime

    def _epsilons(self, charge: Charge) -> Epsilons:
        """Epsilons before and after ``charge``; raise if the proved one passes the cap."""
        delta = self._whole_delta(charge)
        after = self._totals.rdp(delta=delta, adding=charge)
        if self._epsilon_lifetime is not None and not after <= self._epsilon_lifetime:
            raise BudgetExceededError(
                f"privacy budget: this step would bring the lifetime epsilon to {after:.4g} at delta "
                f"{delta:.3g}, over the cap of {self._epsilon_lifetime:g}; the merchant stays out."
            )
        return Epsilons(
            pld_before=finite(self._totals.pld(delta=delta)),
            pld_after=finite(self._totals.pld(delta=delta, adding=charge)),
            rdp_before=finite(self._totals.rdp(delta=delta)),
            rdp_after=finite(after),
            delta=delta,
        )

    def _append(self, charge: Charge, epsilons: Epsilons) -> Entry:
        connection = self._open_connection()
        entry, row = to_row(
            Entry(
                sequence=len(self._entries) + 1,
                charge=charge,
                created_at=self._moment(),
                accountants=accountant_versions(),
                epsilons=epsilons,
                hash=b"",
                signature=b"",
            ),
            previous=self.head()[1],
            signer=self._signer,
        )
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._on_event("begun")
            connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._on_event("inserted")
            connection.execute("COMMIT")
            self._on_event("committed")
        except sqlite3.Error as error:
            self._recover()
            raise LedgerError(f"ledger: {self._path} cannot be written ({error}).") from error
        self._entries.append(entry)
        self._by_key[charge.key] = entry
        self._totals.add(charge)
        self._write_head(self._entries)
        return entry

    def _moment(self) -> str:
        """Return the time of an entry made now: no earlier than the last one's, also where a clock ran ahead.

        Readers take an entry that is older than the one before it for tampering.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return max(now, self._entries[-1].created_at) if self._entries else now

    def _recover(self) -> None:
        """After a failed write, take what the disk says, or close if it can't be read."""
        connection = self._open_connection()
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._load()
        except (sqlite3.Error, LedgerError):
            with contextlib.suppress(sqlite3.Error):
                self.close()

    def _write_head(self, entries: list[Entry]) -> None:
        head = head_of(entries, public=self._signer.public, receipt=self._receipt)
        write_head(self._head_path, head, signer=self._signer, on_event=self._on_event)

    def head(self) -> tuple[int, bytes]:
        """Return the number of entries and the hash of the last (of the empty chain, if none)."""
        return len(self._entries), hash_at(self._entries, len(self._entries), public=self._signer.public)

    def signed_head(self, *, training_id: str, round_number: int, merchant: str) -> SignedLedgerHead:
        """Return the head's hash, signed for a server that will give it back in a receipt."""
        with self._mutex:
            statement = LedgerHead(
                training_id=training_id,
                round_number=round_number,
                merchant=merchant,
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
            self._open_connection()
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
                check_receipt(self._path, receipt, self._entries, public=self._signer.public)
            except LedgerError as error:
                self._outdated = str(error)
                # The lock stays: another process would only find the same, and this one still runs.
                self._open_connection().close()
                self._connection = None
                self._receipt = receipt
                self._write_head(self._entries)
                raise
            if self._receipt is None or self._position(receipt) > self._position(self._receipt):
                self._receipt = receipt
                self._write_head(self._entries)

    def _position(self, receipt: Receipt) -> int:
        """The number of the entry that a receipt is for, 0 for the empty ledger's."""
        wanted = bytes.fromhex(receipt.head.statement.head_hash)
        return next((entry.sequence for entry in reversed(self._entries) if entry.hash == wanted), 0)

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries in order."""
        with self._mutex:
            return tuple(self._entries)

    def rounds_since(self, moment: datetime) -> int:
        """Return how many rounds were charged at ``moment`` (with a time zone) or later."""
        start = moment.astimezone(UTC).isoformat(timespec="seconds")
        return len({entry.charge.key[:2] for entry in self.entries() if entry.created_at >= start})

    def epsilon(self, *, delta: float, view: View = "server") -> float:
        """Epsilon by PLD of everything charged, at ``delta`` less what rounding uses; inf if none is left."""
        with self._mutex:
            return self._totals.pld(delta=delta, view=view)

    def epsilon_rdp(self, *, delta: float) -> float:
        """Epsilon by RDP of everything charged, server's view: what the cap is held against."""
        with self._mutex:
            return self._totals.rdp(delta=delta)

    def verify(self) -> Verification:
        """Check chain and signatures afresh from the disk, naming the first entry that fails.

        Raises:
            LedgerError: the ledger is closed or can't be read.

        """
        with self._mutex:
            try:
                rows = self._open_connection().execute(SELECT).fetchall()
            except sqlite3.Error as error:
                raise LedgerError(f"ledger: {self._path} cannot be read ({error}).") from error
            outcome, _ = check_rows(rows, public=self._signer.public, verify=self._verify)
            if outcome.ok and outcome.entries != len(self._entries):
                reason = f"{len(self._entries)} entries were written but {outcome.entries} are there"
                return Verification(False, outcome.entries, outcome.entries + 1, reason)
            return outcome
