"""Keep an open ledger's chain of entries in memory and on disk, with the head file beside it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from fedrec.errors import LedgerError
from fedrec.privacy.accounting.data_commitment import Opening
from fedrec.privacy.accounting.entry_encoding import Row, Verification, check_rows, to_row
from fedrec.privacy.accounting.key_rotation import Signer, Verifier
from fedrec.privacy.accounting.ledger_entries import ChargeEntry, NewEntry, RotationEntry
from fedrec.privacy.accounting.ledger_file import LedgerFile
from fedrec.privacy.accounting.ledger_head import (
    check_head,
    hash_at,
    head_of,
    head_path,
    read_head,
    write_head,
)
from fedrec.privacy.accounting.ledger_history import History
from fedrec.protocol.statements import Receipt


class LedgerChain:
    """The entries of one ledger that this process alone has open for writing.

    Args:
        path: the SQLite file; ``path`` + ".lock" is locked while open, and ``path`` + ".head" is the head
            file.
        signer: the merchant's identity.
        verify: function that checks the signatures of existing entries.
        on_event: called with the name of each step of writing; tests interrupt writing there.

    Attributes:
        path: the SQLite file.
        signer: the merchant's identity.
        verify: function that checks a signature.
        mutex: lock to hold while reading or writing mutable state.
        history: the entries, and what was spent.
        receipt: the newest receipt of the server; None before the first.

    Raises:
        LedgerError: the ledger or its head file is missing, locked by another process, broken, older than its
            head, or of another merchant, or it can't be written.
    """

    history: History

    def __init__(
        self, path: Path, *, signer: Signer, verify: Verifier, on_event: Callable[[str], None]
    ) -> None:
        self.path = path
        self.signer = signer
        self.verify = verify
        self.mutex = threading.RLock()
        self.receipt: Receipt | None = None
        self._on_event = on_event
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

    def _load(self) -> None:
        """Read and check everything on disk, and rebuild the history from it."""
        public = self.signer.public
        outcome, entries = check_rows(self._file.rows(), public=public, verify=self.verify)
        if not outcome.ok:
            raise LedgerError(f"ledger: {self.path} is broken or of another merchant: {outcome.reason}.")
        openings = self._file.openings()
        head = read_head(head_path(self.path), public=public, verify=self.verify, entries=entries)
        history = History()
        for entry in entries:
            version = None
            if isinstance(entry, ChargeEntry):
                opening = openings.get(entry.sequence)
                if opening is None or not opening.opens(entry.data):
                    raise LedgerError(
                        f"ledger: {self.path} is broken: the opening of entry {entry.sequence} is missing."
                    )
                version = opening.version
            history.add(entry, version=version)
        check_head(self.path, head, entries, public=public)
        if history.count is None:
            raise LedgerError(f"ledger: {self.path} is broken: it has no release of a count.")
        self.history = history
        if head is not None:
            self.receipt = head.receipt
            if head.entries < len(entries):
                self._write_head()

    def close(self) -> None:
        """Close the file and release the lock; closing twice is harmless."""
        self._file.close()

    @property
    def is_open(self) -> bool:
        """Whether entries can be written: not after closing, nor once a receipt shows an older copy."""
        return self._file.connection is not None

    def check_open(self) -> None:
        """Raise ``LedgerError`` if no entry can be written."""
        if not self.is_open:
            raise LedgerError(self._outdated or f"ledger: {self.path} is closed.")

    def head(self) -> tuple[int, bytes]:
        """Return the number of entries and the hash of the last."""
        entries = self.history.entries
        return len(entries), hash_at(entries, len(entries), public=self.signer.public)

    def append(self, entry: NewEntry, opening: Opening | None = None) -> NewEntry:
        """Sign an entry and write it to disk, then its head.

        Args:
            entry: the unsigned entry, next in the chain.
            opening: the opening of the entry's data commitment; None for an entry without one.

        Returns:
            The signed entry; it and its head are on disk.

        Raises:
            LedgerError: the disk fails; the entry may have been written.
        """
        return self._append(entry, opening, signer=self.signer)

    def rotate(self, entry: RotationEntry, *, signer: Signer) -> RotationEntry:
        """Write an exchange of keys, signed by the old key; the new one signs the head and what follows.

        Args:
            entry: the unsigned entry, next in the chain.
            signer: the merchant's identity from now on.

        Returns:
            The signed entry; it and its head are on disk.

        Raises:
            LedgerError: the disk fails; the entry may have been written.
        """
        return self._append(entry, None, signer=signer)

    def _append(self, entry: NewEntry, opening: Opening | None, *, signer: Signer) -> NewEntry:
        written, row = to_row(entry, previous=self.head()[1], signer=self.signer)
        self._write(row, opening, exchanges_keys=signer is not self.signer)
        self.signer = signer
        self.history.add(written, version=None if opening is None else opening.version)
        self._write_head()
        return written

    def _write(self, row: Row, opening: Opening | None, *, exchanges_keys: bool) -> None:
        try:
            self._file.append(row, opening, exchanges_keys=exchanges_keys)
        except sqlite3.Error as error:
            self._recover()
            raise LedgerError(f"ledger: {self.path} cannot be written ({error}).") from error

    def _recover(self) -> None:
        """Reload the state from disk after a failed write; close the ledger if it can't be read."""
        try:
            self._file.roll_back()
            self._load()
        except (sqlite3.Error, LedgerError):
            self.close()

    def keep_receipt(self, receipt: Receipt) -> None:
        """Write a receipt to the head file; ``LedgerError`` if the disk fails."""
        self.receipt = receipt
        self._write_head()

    def stop_writing(self, reason: str, receipt: Receipt) -> None:
        """Refuse all further writing, because a receipt shows that this ledger is an older copy.

        Args:
            reason: the message of the ``LedgerError`` that every later write raises.
            receipt: the receipt to keep as evidence.
        """
        self._outdated = reason
        # The lock is kept: this process still runs, and another process would reach the same result.
        self._file.close_database()
        self.keep_receipt(receipt)

    def _write_head(self) -> None:
        head = head_of(self.history.entries, public=self.signer.public, receipt=self.receipt)
        write_head(head_path(self.path), head, signer=self.signer, on_event=self._on_event)

    def check(self) -> Verification:
        """Read the entries from disk again and check the chain and all signatures.

        Returns:
            The outcome, with the first entry that fails.

        Raises:
            LedgerError: the ledger is closed or can't be read.
        """
        self.check_open()
        try:
            rows = self._file.rows()
        except sqlite3.Error as error:
            raise LedgerError(f"ledger: {self.path} cannot be read ({error}).") from error
        outcome, _ = check_rows(rows, public=self.signer.public, verify=self.verify)
        known = len(self.history.entries)
        if outcome.ok and outcome.entries != known:
            reason = f"{known} entries were written but {outcome.entries} are there"
            return Verification(False, outcome.entries, outcome.entries + 1, reason)
        return outcome
