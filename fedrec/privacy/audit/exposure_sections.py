"""Sections of an audit's pages on what each party could see, on refusals, and on the run's warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrec._internal.text import listed
from fedrec.privacy.accounting.budget_rating import Rating, rate_budget
from fedrec.privacy.audit import claims
from fedrec.privacy.audit.bundled_ledger import BundledLedger, largest
from fedrec.protocol import modes
from fedrec.protocol.modes import Mode
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.trust import TrustModel
from fedrec.report.document import Block, Bullets, Column, Paragraph, Section, Table, Tag

SHOWN_REFUSALS, SHOWN_PLACES, SHOWN_WARNINGS = 30, 3, 20
_NAMED = 40


def party_views_section(
    plans: Mapping[str, TrainingPlan], ledgers: Sequence[BundledLedger]
) -> tuple[Section, ...]:
    """Tabulate what each party could see, for every kind of training that was charged for.

    Args:
        plans: by training id; trainings without a plan are left out.
        ledgers: of every merchant in the bundle.

    Returns:
        The section; empty if no plan of a charged training is there.
    """
    charged: dict[str, list[float | None]] = {}
    seeded = any(ledger.summary.seeded for ledger in ledgers)
    for ledger in ledgers:
        for training in ledger.trainings:
            charged.setdefault(training.training_id, []).append(training.epsilon)
    kinds: dict[tuple[Mode, str, int, TrustModel], list[Rating]] = {}
    figures = False
    for training_id, owns in charged.items():
        plan = plans.get(training_id)
        if plan is not None:
            own = None if seeded else largest(owns)
            rated = rate_budget(own, delta=plan.delta, public_total=plan.records_total)
            kinds.setdefault((plan.mode, plan.scheme, plan.colluders, plan.trust), []).append(rated)
            figures |= plan.site_figures is not None
    found: list[Block] = []
    columns = (Column("party"), Column("sees"), Column("single updates", "verdict"))
    for (mode, scheme, colluders, trust), ratings in sorted(kinds.items(), key=lambda item: item[0][:3]):
        # With several kinds of trainings, figures of any are named in each.
        seen = claims.party_views(modes.get(mode), trust, colluders=colluders, figures=figures)
        if len(kinds) > 1:
            found.append(Paragraph(f"In trainings of mode {mode} with scheme {scheme}:"))
        worst = next((rated for rated in ratings if not rated.protected), ratings[0])
        rows = tuple(
            (
                view.party,
                view.sees,
                Tag(
                    claims.verdict(view, protected=worst.protected),
                    "good" if worst.protected and not view.exposed else "bad",
                ),
            )
            for view in seen
        )
        found.append(Table(columns, rows, stacks=True))
    return (Section("What each party could see", tuple(found)),) if found else ()


def refusals_section(refusals: Mapping[str, Mapping[str, str] | None]) -> tuple[Section, ...]:
    """Tabulate refusals by who recorded them and why, and name those whose refusals weren't collected.

    Returns:
        The section; empty if nobody's refusals were collected.
    """
    if all(found is None for found in refusals.values()):
        return ()
    missing = [who for who, found in refusals.items() if found is None]
    reasons: dict[tuple[str, str], list[str]] = {}
    for who, found in refusals.items():
        for where, reason in (found or {}).items():
            reasons.setdefault((who, reason), []).append(where)
    rows = []
    for (who, reason), places in list(reasons.items())[:SHOWN_REFUSALS]:
        more = f" and {len(places) - SHOWN_PLACES} more" if len(places) > SHOWN_PLACES else ""
        count = f"{len(places)} x: " if len(places) > 1 else ""
        rows.append((who, reason, f"{count}{'; '.join(places[:SHOWN_PLACES])}{more}"))
    blocks: list[Block] = []
    if rows:
        columns = (Column("recorded by"), Column("reason"), Column("where"))
        blocks.append(Table(columns, tuple(rows), stacks=True))
    elif any(found is not None for found in refusals.values()):
        blocks.append(
            Paragraph(f"Recorded by {', '.join(w for w, f in refusals.items() if f is not None)}: none.")
        )
    if len(reasons) > SHOWN_REFUSALS:
        blocks.append(Paragraph(f"{len(reasons) - SHOWN_REFUSALS} more reasons stand in audit.json.", "note"))
    if "server" not in refusals:
        missing.insert(0, "the server")
    if missing:
        blocks.append(Paragraph(f"Not collected from: {listed(missing, most=_NAMED)}.", "note"))
    return (Section("Refusals", tuple(blocks)),)


def warnings_section(report: Mapping[str, Any] | None) -> tuple[Section, ...]:
    """List the warnings of the training's own report; empty where none is attached or there are none."""
    warnings = (report or {}).get("warnings")
    if not isinstance(warnings, list) or not warnings:
        return ()
    shown = [str(text) for text in warnings[:SHOWN_WARNINGS]]
    if len(warnings) > SHOWN_WARNINGS:
        shown.append(f"and {len(warnings) - SHOWN_WARNINGS} more, all of them in audit.json")
    return (Section("Warnings of the training's own report", (Bullets(tuple(shown)),), tone="warn"),)
