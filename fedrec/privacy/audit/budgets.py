"""Sections of an audit's pages on spent and remaining budgets, by merchant and by training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.privacy.accounting.budget_rating import rate_budget
from fedrec.privacy.audit.bundled_ledger import (
    BundledLedger,
    BundledTraining,
    largest,
    or_infinite,
    shown_epsilon,
)
from fedrec.protocol.plan import TrainingPlan
from fedrec.report.document import Block, Column, Figure, Figures, Paragraph, Section, Table
from fedrec.report.folding import folded

_BY_MERCHANT = (
    "Merchants hold different photos, so their budgets don't add up: each row is the whole loss of that "
    "merchant's photos, over all trainings in its ledger and the noised count of units that it declared, "
    "'size'. 'Training' is the largest epsilon of one training and that count, 'spent' what the lifetime cap "
    "counts for all of them at 'delta'. 'Left' is what the cap allows still, of the policy that the "
    "merchant's last charge was made under. 'If broken' is what would be spent if every upload could be "
    "seen alone."
)
_BY_TRAINING = (
    "Epsilon of each training and of the noised count that its merchants declared, proved by PLD at the "
    "training's own delta, as in the training's own report: the largest of its merchants. "
    "Those of several trainings don't simply add up: the table above has them together."
)


def headline_figures(ledgers: Sequence[BundledLedger]) -> tuple[Block, ...]:
    """Show the largest budgets and the number of charges; with seeded noise there is no epsilon."""
    worst = max(ledgers, key=lambda ledger: or_infinite(ledger.training_epsilon))
    most = max(ledgers, key=lambda ledger: or_infinite(ledger.summary.spent))
    seeded = any(ledger.summary.seeded for ledger in ledgers)
    rounds = sum(len(ledger.charges) for ledger in ledgers)
    broken = largest([ledger.summary.spent_aggregation_broken for ledger in ledgers])
    return (
        Figures(
            (
                Figure(
                    "Training that cost most",
                    _headline(worst.training_epsilon, seeded=seeded),
                    _note(worst.training_epsilon, worst.summary.training_delta, seeded=seeded),
                    "epsilon",
                ),
                Figure(
                    "Spent over a lifetime",
                    _headline(most.summary.spent, seeded=seeded),
                    _note(most.summary.spent, most.summary.delta, seeded=seeded),
                    "epsilon",
                ),
                Figure(
                    "If aggregation were broken",
                    _headline(broken, seeded=seeded),
                    "lifetime epsilon of the merchant that it would cost most",
                    "epsilon",
                ),
                Figure("Merchants", str(len(ledgers)), f"{counted(rounds, 'charge')} in their ledgers"),
            )
        ),
    )


def _headline(epsilon: float | None, *, seeded: bool) -> str:
    return "none" if seeded else shown_epsilon(epsilon)


def _note(epsilon: float | None, delta: float | None, *, seeded: bool) -> str:
    if seeded:
        return "no guarantee: noise came from a seed"
    if delta is None:
        return "no round was charged"
    word = rate_budget(epsilon, delta=delta).word
    return f"epsilon; {word}; δ = {number_format.delta(delta)}"


def budgets_by_merchant(ledgers: Sequence[BundledLedger]) -> Section:
    """Tabulate what each merchant spent, and what its cap leaves."""
    rows = tuple(
        (
            ledger.name,
            str(ledger.summary.charges),
            str(ledger.summary.size),
            shown_epsilon(ledger.training_epsilon),
            shown_epsilon(ledger.summary.spent),
            rate_budget(ledger.summary.spent, delta=ledger.summary.delta).word,
            _left(ledger, ledger.summary.spent),
            shown_epsilon(ledger.summary.spent_aggregation_broken),
            number_format.delta(ledger.summary.delta),
            str(ledger.receipts),
        )
        for ledger in ledgers
    )
    columns = (
        Column("merchant"),
        *(Column(name, "number") for name in ("charges", "size", "training", "spent")),
        Column("in words", "verdict"),
        *(Column(name, "number") for name in ("left", "if broken", "delta", "receipts")),
    )
    table = folded(Table(columns, rows, stacks=True), noun="merchant", loose=("size", "receipts"))
    return Section("Spent and left, by merchant", (Paragraph(_BY_MERCHANT, "note"), table))


def _left(ledger: BundledLedger, spent: float | None) -> str:
    if ledger.policy_hash not in ledger.policies:
        return "policy not here"
    if ledger.cap is None:
        return "no cap"
    if spent is None:
        return "none"
    return number_format.epsilon_left(ledger.cap - spent)


def budgets_by_training(
    ledgers: Sequence[BundledLedger], plans: Mapping[str, TrainingPlan]
) -> tuple[Section, ...]:
    """Tabulate every training that was charged for.

    Args:
        ledgers: of every merchant in the bundle.
        plans: by training id, as far as the bundle has them.

    Returns:
        The section; empty if no training was charged for.
    """
    found: dict[str, list[BundledTraining]] = {}
    for ledger in ledgers:
        for training in ledger.trainings:
            found.setdefault(training.training_id, []).append(training)
    rows = tuple(_training(mine, plans.get(key)) for key, mine in found.items())
    columns = (
        Column("training"),
        Column("model", "text"),
        Column("mode", "text"),
        *(Column(name, "number") for name in ("rounds", "merchants", "rate", "noise", "epsilon", "since")),
    )
    blocks = (Paragraph(_BY_TRAINING, "note"), Table(columns, rows, stacks=True))
    return (Section("By training", blocks),) if rows else ()


def _training(by_merchant: Sequence[BundledTraining], plan: TrainingPlan | None) -> tuple[str, ...]:
    entries = [entry for mine in by_merchant for entry in mine.charges]
    charge = entries[0].charge
    rounds = {entry.charge.round_number for entry in entries if not entry.charge.is_of_figures}
    figures = " and site figures" if any(entry.charge.is_of_figures for entry in entries) else ""
    return (
        by_merchant[0].training_id[:12],
        charge.model,
        f"{charge.mode}, {plan.scheme if plan else 'plan not here'}",
        f"{len(rounds)}" + (f" of {plan.rounds}" if plan else "") + figures,
        str(len(by_merchant)),
        number_format.general(charge.sample_rate),
        f"{charge.guaranteed_noise_multiplier:.3f}",
        shown_epsilon(largest([mine.epsilon for mine in by_merchant])),
        min(entry.created_at for entry in entries)[:10],
    )
