"""Create a ledger, with the release of a noised count as its first entry."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fedrec.errors import LedgerError
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.accounting.entry_encoding import genesis, to_row
from fedrec.privacy.accounting.key_rotation import Signer
from fedrec.privacy.accounting.ledger_entries import CountEntry
from fedrec.privacy.accounting.ledger_file import LedgerFile
from fedrec.privacy.accounting.ledger_head import head_of, head_path, write_head
from fedrec.privacy.accounting.ledger_history import History
from fedrec.privacy.accounting.lifetime_cap import LifetimeCap


def create_ledger(
    path: Path,
    *,
    signer: Signer,
    count: Count,
    epsilon_lifetime: float | None = None,
    delta_lifetime: float | None = None,
    on_event: Callable[[str], None] = lambda event: None,
) -> CountEntry:
    """Create a merchant's ledger and charge its first release.

    The count may be released only after this returns.

    Args:
        path: the SQLite file to create; its head file is created beside it.
        signer: the merchant's identity.
        count: the release; its ``number`` is set to 1.
        epsilon_lifetime: the lifetime cap; None for none.
        delta_lifetime: the delta of the cap; None for no cap.
        on_event: called with the name of each step of writing; tests interrupt writing there.

    Returns:
        The entry of the release, on disk.

    Raises:
        BudgetExceededError: the release alone would pass the lifetime cap; nothing is written.
        LedgerError: a ledger or a head file exists at ``path``, or the disk fails.
    """
    if path.exists() or head_path(path).exists():
        raise LedgerError(
            f"ledger: {path} or its head file exists already: a ledger is created once; choose a new folder."
        )
    history, count = History(), replace(count, number=1)
    epsilons = LifetimeCap(epsilon_lifetime, delta_lifetime).epsilons(history.lifetime, count)
    entry, row = to_row(history.new_count(count, epsilons), previous=genesis(signer.public), signer=signer)
    file = LedgerFile(path, on_event=on_event)
    try:
        file.create(row)
        head = head_of([entry], public=signer.public, receipt=None)
        write_head(head_path(path), head, signer=signer, on_event=on_event)
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"ledger: {path} cannot be created ({error}).") from error
    finally:
        file.close()
    return entry
