"""Read and check a ledger file that somebody else may be writing: no lock, nothing changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fedrec._internal.file_locks import is_locked
from fedrec.errors import LedgerError
from fedrec.privacy.accounting.data_commitment import Opening
from fedrec.privacy.accounting.ledger_entries import SELECT, Entry, Row, Verification, Verifier, check_rows
from fedrec.privacy.accounting.ledger_file import SELECT_OPENINGS
from fedrec.privacy.accounting.ledger_head import LOST_LEDGER_HELP


def read_entries(path: Path, *, public: bytes, verify: Verifier) -> tuple[Verification, list[Entry]]:
    """Check a ledger file without opening it for writing, and return the entries that hold.

    Needs no lock; for auditors. The entries stop before the first that fails.

    Raises:
        LedgerError: the file is missing or no ledger.

    """
    if not path.is_file():
        raise LedgerError(f"ledger: {path} does not exist. {LOST_LEDGER_HELP}")
    if not path.stat().st_size:
        raise LedgerError(f"ledger: {path} is empty: it is no ledger. {LOST_LEDGER_HELP}")
    outcome, entries = check_rows(_select(path, SELECT), public=public, verify=verify)
    if outcome.ok and not entries:
        raise LedgerError(f"ledger: {path} holds no entry: it is no ledger. {LOST_LEDGER_HELP}")
    return outcome, entries


def read_openings(path: Path) -> dict[int, Opening]:
    """Return what opens the commitments of a ledger's entries, by sequence: for its merchant alone.

    Raises ``LedgerError`` as :func:`read_entries` does.
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


def in_use(path: Path) -> bool:
    """Say whether a process holds this ledger open; the lock is left as it was.

    A ledger that is opened in just this instant is told that another process has it.
    """
    return is_locked(Path(f"{path}.lock"))


def verify_file(path: Path, *, public: bytes, verify: Verifier) -> Verification:
    """Check chain and signatures of a ledger file, as :func:`read_entries`."""
    return read_entries(path, public=public, verify=verify)[0]
