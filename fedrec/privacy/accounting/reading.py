"""Read and check a ledger file that somebody else may be writing: no lock, nothing changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fedrec._internal.file_locks import is_locked
from fedrec.errors import LedgerError
from fedrec.privacy.accounting.entries import SELECT, Entry, Verification, Verifier, check_rows


def read_entries(path: Path, *, public: bytes, verify: Verifier) -> tuple[Verification, list[Entry]]:
    """Check a ledger file without opening it for writing, and return the entries that hold.

    Needs no lock; for auditors. The entries stop before the first that fails.

    Raises:
        LedgerError: the file is missing or no ledger.

    """
    if not path.is_file():
        raise LedgerError(f"ledger: {path} does not exist.")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            return check_rows(connection.execute(SELECT), public=public, verify=verify)
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
