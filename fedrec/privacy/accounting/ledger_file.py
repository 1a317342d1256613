"""Read and write the SQLite file of a ledger: one writer at a time, append-only, durable."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedrec._internal.file_locks import HeldLock, LockedElsewhereError, take_lock
from fedrec._internal.files import OPEN_FLAGS
from fedrec.errors import LedgerError
from fedrec.privacy.accounting.data_commitment import Opening
from fedrec.privacy.accounting.entry_encoding import SELECT, Row
from fedrec.privacy.accounting.ledger_head import LOST_LEDGER_HELP, head_path

SELECT_OPENINGS = "SELECT sequence, salt, version FROM opening ORDER BY sequence"
_VERSION, _WITH_ROTATIONS = 2, 3
"""The format, and that of a ledger with an exchange of keys, which earlier versions can't read."""
_SCHEMA = (
    "CREATE TABLE entries (sequence INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, payload TEXT NOT NULL,"
    " hash BLOB NOT NULL, signature BLOB NOT NULL)",
    # Openings of the entries' data commitments. They are no part of the chain and stay with this merchant.
    "CREATE TABLE opening (sequence INTEGER PRIMARY KEY REFERENCES entries, salt BLOB NOT NULL,"
    " version TEXT NOT NULL)",
    *(
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table}"
        " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        for table in ("entries", "opening")
        for verb in ("UPDATE", "DELETE")
    ),
    f"PRAGMA user_version = {_VERSION}",
)


class LedgerFile:
    """A ledger's file, locked for this process from construction to :meth:`close`.

    Args:
        path: the SQLite file.
        on_event: called with the name of each step of writing; tests interrupt writing there.

    Attributes:
        path: the SQLite file.

    Raises:
        LedgerError: another process has locked the file.
    """

    def __init__(self, path: Path, *, on_event: Callable[[str], None]) -> None:
        self.path = path
        self._on_event = on_event
        self._connection: sqlite3.Connection | None = None
        self._lock = _take_lock(path)

    def create(self, first: Row) -> None:
        """Create the file (mode 0600) with its first entry, in one transaction; the file must not exist."""
        # Created before SQLite opens it, so that other users can never read it.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600))
        self._on_event("file made")
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", first)
        self._on_event("inserted")
        connection.execute("COMMIT")
        self._on_event("committed")

    def open(self) -> None:
        """Open the file that :meth:`create` made; ``LedgerError`` if it is missing or of another format."""
        if not self.path.exists():
            head = head_path(self.path)
            if head.exists():
                raise LedgerError(
                    f"ledger: {self.path} is missing, and its head file is still there. {LOST_LEDGER_HELP}"
                )
            raise LedgerError(f"ledger: {self.path} and its head file are missing. {LOST_LEDGER_HELP}")
        self.path.chmod(0o600)
        version = self._connect().execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            raise LedgerError(f"ledger: {self.path} is empty: it is not a ledger. {LOST_LEDGER_HELP}")
        if version not in (_VERSION, _WITH_ROTATIONS):
            raise LedgerError(
                f"ledger: {self.path} has format {version}, but this version of fedrec reads {_VERSION} and "
                f"{_WITH_ROTATIONS}; "
                "use the version that wrote it."
            )

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self.path.resolve().as_uri()}?mode=rw"
        self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = DELETE")
        # EXTRA also syncs the folder once the journal is gone: a commit survives a power cut.
        self._connection.execute("PRAGMA synchronous = EXTRA")
        return self._connection

    @property
    def connection(self) -> sqlite3.Connection | None:
        """The open database; None after closing."""
        return self._connection

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LedgerError(f"ledger: {self.path} is closed.")
        return self._connection

    def rows(self) -> list[Row]:
        """Return the rows of all entries, in order."""
        return self._opened().execute(SELECT).fetchall()

    def openings(self) -> dict[int, Opening]:
        """Return the openings of the entries' data commitments, by sequence number."""
        rows = self._opened().execute(SELECT_OPENINGS)
        return {sequence: Opening(bytes(salt), version) for sequence, salt, version in rows}

    def append(self, row: Row, opening: Opening | None, *, exchanges_keys: bool = False) -> None:
        """Append an entry; it is on disk when this returns.

        Args:
            row: the entry's columns.
            opening: the opening of its data commitment; None for an entry without one.
            exchanges_keys: whether later entries are signed by another key.
        """
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        self._on_event("begun")
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)
        if opening is not None:
            connection.execute(
                "INSERT INTO opening VALUES (?, ?, ?)", (row[0], opening.salt, opening.version)
            )
        if exchanges_keys:
            connection.execute(f"PRAGMA user_version = {_WITH_ROTATIONS}")
        self._on_event("inserted")
        connection.execute("COMMIT")
        self._on_event("committed")

    def roll_back(self) -> None:
        """Roll back a write that failed."""
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close_database(self) -> None:
        """Close the database but keep the lock."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Close the database and release the lock; closing twice is harmless."""
        self.close_database()
        self._lock.close()


IN_USE = "ledger: {} is in use by another process; stop that one first."


def _take_lock(path: Path) -> HeldLock:
    try:
        return take_lock(Path(f"{path}.lock"))
    except OSError as error:
        raise LedgerError(f"ledger: {path} cannot be locked ({error}).") from error
    except LockedElsewhereError as error:
        raise LedgerError(IN_USE.format(path)) from error
