"""Read and check a ledger file without locking or changing it, even while another process writes it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fedrec._internal.file_locks import is_locked
from fedrec.errors import LedgerError
from fedrec.privacy.accounting.data_commitment import Opening
from fedrec.privacy.accounting.entry_encoding import SELECT, Row, Verification, check_rows
from fedrec.privacy.accounting.key_rotation import Verifier
from fedrec.privacy.accounting.ledger_entries import Entry
from fedrec.privacy.accounting.ledger_file import IN_USE, SELECT_OPENINGS
from fedrec.privacy.accounting.ledger_head import LOST_LEDGER_HELP, Head, head_path, read_head


def read_entries(path: Path, *, public: bytes, verify: Verifier) -> tuple[Verification, list[Entry]]:
    """Check a ledger file, read-only and without a lock.

    Args:
        path: the SQLite file.
        public: the merchant's public key, 32 bytes.
        verify: function that checks a signature.

    Returns:
        The outcome, and the entries before the first invalid one.

    Raises:
        LedgerError: the file is missing or isn't a ledger.
    """
    if not path.is_file():
        raise LedgerError(f"ledger: {path} does not exist. {LOST_LEDGER_HELP}")
    if not path.stat().st_size:
        raise LedgerError(f"ledger: {path} is empty: it is not a ledger. {LOST_LEDGER_HELP}")
    outcome, entries = check_rows(_select(path, SELECT), public=public, verify=verify)
    if outcome.ok and not entries:
        raise LedgerError(f"ledger: {path} holds no entry: it is not a ledger. {LOST_LEDGER_HELP}")
    return outcome, entries


def read_checked_head(path: Path, *, public: bytes, verify: Verifier) -> Head | None:
    """Read the head file of a ledger file and check its signature.

    Args:
        path: the SQLite file.
        public: the merchant's public key, 32 bytes.
        verify: function that checks a signature.

    Returns:
        The head; None if there is no head file.

    Raises:
        LedgerError: a file can't be read, or this merchant didn't sign the head.
    """
    _, entries = read_entries(path, public=public, verify=verify)
    return read_head(head_path(path), public=public, verify=verify, entries=entries)


def read_openings(path: Path) -> dict[int, Opening]:
    """Read the openings of the entries' data commitments, which are for the ledger's merchant alone.

    Args:
        path: the SQLite file.

    Returns:
        The openings by sequence number of their entries.

    Raises:
        LedgerError: the file can't be read as a ledger.
    """
    rows = _select(path, SELECT_OPENINGS)
    return {sequence: Opening(bytes(salt), version) for sequence, salt, version in rows}


def _select(path: Path, query: str) -> list[Row]:
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise LedgerError(f"ledger: {path} cannot be read as a ledger ({error}).") from error


def ends_with_key(path: Path, public: bytes) -> bool:
    """Tell whether a ledger's last exchange of keys led to a key; the chain isn't checked.

    Args:
        path: the SQLite file.
        public: the public key, 32 bytes.

    Returns:
        Whether it did; False if there is no such file or no exchange.
    """
    if not path.is_file():
        return False
    rows = _select(path, "SELECT key FROM entries WHERE key LIKE 'rotation/%' ORDER BY sequence")
    return bool(rows) and rows[-1][0] == f"rotation/{public.hex()}"


def check_not_in_use(path: Path) -> None:
    """Raise ``LedgerError`` if a process has a ledger open: before anything slow is begun in vain."""
    if in_use(path):
        raise LedgerError(IN_USE.format(path))


def in_use(path: Path) -> bool:
    """Tell whether a process has a ledger open.

    A process that tries to open the ledger at this very moment is told that it is in use.

    Args:
        path: the SQLite file.

    Returns:
        Whether its lock is taken.
    """
    return is_locked(Path(f"{path}.lock"))
