"""The making of a ledger: once, with the release of a noised count as its first entry."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fedrec.errors import LedgerError
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.accounting.ledger_entries import CountEntry, Signer, genesis, to_row
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
    """Make a merchant's ledger, with its first release charged in it; only then may the size be told.

    Raises:
        BudgetExceededError: the release alone would pass the lifetime cap; nothing is written.
        LedgerError: there is a ledger already, or the head of one, or the disk fails.

    """
    if path.exists() or head_path(path).exists():
        raise LedgerError(f"ledger: {path} or its head file is there already: a ledger is made once.")
    history, count = History(), replace(count, number=1)
    epsilons = LifetimeCap(epsilon_lifetime, delta_lifetime).epsilons(history.lifetime, count)
    entry, row = to_row(history.new_count(count, epsilons), previous=genesis(signer.public), signer=signer)
    file = LedgerFile(path, on_event=on_event)
    try:
        file.create(row)
        head = head_of([entry], public=signer.public, receipt=None)
        write_head(head_path(path), head, signer=signer, on_event=on_event)
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"ledger: {path} cannot be made ({error}).") from error
    finally:
        file.close()
    return entry
