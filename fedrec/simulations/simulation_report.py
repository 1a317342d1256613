"""Collect what only a simulation can report: every merchant's ledger and costs, and the data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fedrec._internal.json_files import write_json
from fedrec._internal.text import counted
from fedrec.clients.merchant_home import MerchantHome
from fedrec.errors import LedgerError
from fedrec.privacy.accounting.events import MIN_DELTA
from fedrec.privacy.accounting.ledger_entries import (
    CountEntry,
    Entry,
    SpendingEntry,
    charges,
    finite,
    spending,
)
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.accounting.lifetime_spend import Lifetime
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.identity import verify
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.training_report.privacy_section import MerchantLine
from fedrec.protocol.training_report.run_section import DataSection, SkippedFile
from fedrec.simulations.data_sources import Source
from fedrec.simulations.merchants import COST_FILE

OWN_SCHEMA = "fedrec.own-report/1"
OWN_REPORT = "report.json"


def per_merchant(plan: TrainingPlan, source: Source, homes: Path) -> tuple[list[MerchantLine], list[str]]:
    """Read every ledger back from disk, as an auditor would.

    Args:
        plan: the training's plan.
        source: the run's data.
        homes: holds a folder per merchant.

    Returns:
        What each merchant spent, and warnings on ledgers that don't verify.
    """
    lines: list[MerchantLine] = []
    problems: list[str] = []
    for peer, share in zip(plan.roster, source.shares, strict=True):
        ledger = MerchantHome(homes / peer.name).ledger
        entries: list[Entry] = []
        known = True
        try:
            outcome, entries = read_entries(ledger, public=bytes.fromhex(peer.signing_key), verify=verify)
            if not outcome.ok:
                problems.append(f"the ledger of {peer.name} does not verify: {outcome.reason}")
        except LedgerError as error:
            known = False
            problems.append(f"what {peer.name} spent is not known: {error}")
        charged = [entry for entry in charges(entries) if entry.charge.training_id == plan.training_id]
        mine = [entry for entry in spending(entries) if isinstance(entry, CountEntry) or entry in charged]
        lines.append(
            MerchantLine(
                merchant=peer.name,
                records=len(share.indices),
                epsilon=_ledger_epsilon(mine, delta=plan.delta) if known else None,
                epsilon_lifetime=_spent(spending(entries)) if known else None,
                rounds_charged=len({entry.charge.round_number for entry in charged}) if known else None,
            )
        )
    return lines, problems


def _spent(entries: Sequence[SpendingEntry]) -> float | None:
    """Return the epsilon that the lifetime filter counts, for the cap and at the delta of the last entry."""
    if not entries:
        return None
    at = entries[-1].epsilons
    return finite(Lifetime.of(entries).reading(epsilon=at.cap_epsilon, delta=at.delta).spent)


def _ledger_epsilon(entries: Sequence[SpendingEntry], *, delta: float) -> float | None:
    spent = sum(entry.cost.delta_used for entry in entries)
    if delta - spent < MIN_DELTA:
        return None
    return finite(epsilon_pld([entry.cost.event() for entry in entries], delta=delta - spent))


def data_section(source: Source) -> DataSection:
    """Return the report's section on the run's photos."""
    return DataSection(
        records=sum(len(share.indices) for share in source.shares),
        skipped=tuple(
            SkippedFile(name=skip.name, reason=skip.reason, merchant=skip.merchant) for skip in source.skipped
        ),
        ignored=dict(Counter(skip.reason for skip in source.account.unread).most_common()),
        folders=source.account.folders,
        notes=(*source.account.notes, *source.account.doubts),
        duplicates_dropped=source.duplicates_dropped,
        near_duplicates=source.near_duplicates,
        evaluation_copies_dropped=source.splits.leaked_dropped,
    )


def write_own_reports(source: Source, homes: Path) -> None:
    """Write a report on its own photos, files by name, into every merchant's folder.

    Args:
        source: the run's data.
        homes: holds a folder per merchant.
    """
    for merchant in source.merchants:
        body = {"schema": OWN_SCHEMA} | asdict(merchant)
        write_json(homes / merchant.merchant / OWN_REPORT, body, mode=0o600)


def data_problems(source: Source) -> list[str]:
    """Return warnings about the data."""
    problems = [
        f"{name} takes no part: every photo of its folder is unusable or fell into an evaluation split."
        for name in source.absent
    ]
    if source.skipped:
        first = source.skipped[0]
        problems.append(
            f"{counted(len(source.skipped), 'photo is', plural='photos are')} not used, e.g. {first.name}: "
            f"{first.reason}; data.skipped in report.json has all."
        )
    leaked = source.splits.leaked_dropped
    if leaked:
        problems.append(
            f"{counted(leaked, 'photo')} to measure on {'is' if leaked == 1 else 'are'} left out: exact "
            "copies are trained on."
        )
    problems += source.account.doubts
    if source.splits.validation is None:
        problems.append("the accuracy of rounds is not measured: no record fell into the validation split.")
    return problems


def merchants_cost(homes: Path, what: str) -> float:
    """Return the CPU seconds that all merchants together spent.

    Args:
        homes: holds a folder per merchant.
        what: ``seconds_train`` or ``seconds_encrypt``.

    Returns:
        The seconds.
    """
    return sum(float(json.loads(path.read_text())[what]) for path in sorted(homes.glob(f"*/{COST_FILE}")))
