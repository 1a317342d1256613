"""The guarantee of an audit in words: for the training that cost most, and over a lifetime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.privacy.accounting.budget_rating import USUAL_DELTA, Rating, rate_budget, unit_in_words
from fedrec.privacy.accounting.entry_contents import Charge
from fedrec.privacy.accounting.group_privacy import SHOWN_COPIES
from fedrec.privacy.accounting.ledger_entries import finite
from fedrec.privacy.audit import claims
from fedrec.privacy.audit.bundled_ledger import BundledLedger, BundledTraining, or_infinite, shown_epsilon
from fedrec.protocol import modes
from fedrec.protocol.plan import TrainingPlan
from fedrec.report.document import Alert, Block, Paragraph


def alarms(ledgers: Sequence[BundledLedger], plans: Mapping[str, TrainingPlan]) -> list[Alert]:
    """State why nothing, or less than it seems, is guaranteed.

    Args:
        ledgers: of every merchant in the bundle.
        plans: by training id, as far as the bundle has them.

    Returns:
        One alert per reason; empty when there is none.
    """
    found: list[Alert] = []
    seeded = [ledger.name for ledger in ledgers if ledger.summary.seeded]
    if _unbounded(ledgers):
        charges = [entry.charge for ledger in ledgers for entry in ledger.charges]
        bare = any(charge.guaranteed_noise_multiplier == 0 for charge in charges)
        why = "at least one charge was made without noise" if bare else "rounding has used up the whole delta"
        found.append(Alert((f"There is NO privacy guarantee: {why}.",)))
    if seeded:
        found.append(
            Alert(
                (
                    f"There is NO privacy guarantee: noise and sampling of {', '.join(seeded)} came from a "
                    "seed; whoever has it can take the noise away again. The figures below are those that "
                    "unseeded noise would have had.",
                )
            )
        )
    for training_id, plan in plans.items():
        exposed = claims.exposure_clause(plan.trust)
        if exposed is not None:
            found.append(Alert((f"NOT ENCRYPTED: in training {training_id[:12]}, {exposed}.",)))
    return found


def guarantee_blocks(ledgers: Sequence[BundledLedger], plans: Mapping[str, TrainingPlan]) -> list[Block]:
    """State what is guaranteed for the training that cost most, and over a lifetime.

    Args:
        ledgers: of every merchant in the bundle.
        plans: by training id, as far as the bundle has them.

    Returns:
        Paragraphs, and alerts where the budget protects little.
    """
    if _unbounded(ledgers):
        return [Paragraph("There is none.", "lead")]
    charges = [entry.charge for ledger in ledgers for entry in ledger.charges]
    worst = max(ledgers, key=lambda ledger: or_infinite(ledger.training_epsilon))
    lifetime = _over_lifetime(ledgers, charges, worst)
    if worst.worst is None:
        text = "No round was charged: beside the noised count of units that each declared, nothing was given."
        return [Paragraph(text, "lead"), *lifetime]
    seeded = any(ledger.summary.seeded for ledger in ledgers)
    given = "Without a seed these settings would give: " if seeded else ""
    return [
        *_of_training(worst, worst.worst, plans.get(worst.worst.training_id), given=given),
        *lifetime,
    ]


def _unbounded(ledgers: Sequence[BundledLedger]) -> bool:
    return any(None in (ledger.training_epsilon, ledger.summary.spent) for ledger in ledgers)


def _sentence(rated: Rating, text: str, *, lead: bool = False) -> Block:
    """Show a rated budget: as an alarm where it protects little."""
    return Paragraph(text, "lead" if lead else "plain") if rated.protected else Alert((text,))


def _over_lifetime(
    ledgers: Sequence[BundledLedger], charges: Sequence[Charge], worst: BundledLedger
) -> list[Block]:
    """State what the merchant that spent most has spent, in words and in formal terms."""
    unit = unit_in_words(worst.last.unit)
    most = max(ledgers, key=lambda ledger: or_infinite(ledger.summary.spent))
    spent, delta = most.summary.spent, most.summary.delta
    rated = rate_budget(spent, delta=delta, unit=unit)
    colluders = max((charge.colluders for charge in charges), default=0)
    against = "a server that no merchant sides with"
    found = [modes.find(charge.mode) for charge in charges]
    if any(mode is not None and mode.shares_noise for mode in found):
        others = counted(colluders, "merchant sides", plural="merchants side")
        against = f"a server that up to {others} with"
    return [
        _sentence(
            rated,
            "Over a lifetime, all trainings and counts together: epsilon "
            f"{shown_epsilon(spent)} at delta {number_format.delta(delta)} for the merchant that spent most "
            f"({most.name}), as its lifetime cap counts it, by a filter that holds for a server which "
            f"chooses each training after seeing the last one's results. {rated.sentence}",
        ),
        Paragraph(
            f"In formal terms: ({shown_epsilon(spent)}, {number_format.delta(delta)})-differential privacy "
            f"under add-or-remove adjacency of one {worst.last.unit}, over everything that was charged, "
            f"against {against}. If aggregation were broken and somebody saw each upload alone, epsilon "
            f"would be {shown_epsilon(most.summary.spent_aggregation_broken)} by the same rule.",
            "note",
        ),
    ]


def _of_training(
    ledger: BundledLedger, training: BundledTraining, plan: TrainingPlan | None, *, given: str
) -> list[Block]:
    """State the proved epsilon of the training that cost most, in words and for copies."""
    unit, delta, spend = unit_in_words(ledger.last.unit), training.delta, training.spend
    rated = rate_budget(
        training.epsilon,
        delta=delta,
        unit=unit,
        public_total=None if plan is None else plan.records_total,
    )
    copies = ", ".join(f"{shown_epsilon(finite(spend.epsilon_of_copies(k)))} for {k}" for k in SHOWN_COPIES)
    usual = ""
    if delta != USUAL_DELTA:
        at = finite(spend.with_delta(USUAL_DELTA).epsilon())
        usual = f" (at delta {number_format.delta(USUAL_DELTA)}: {shown_epsilon(at)})"
    return [
        _sentence(rated, given + rated.sentence, lead=True),
        Paragraph(
            f"That is the training that cost most, {training.training_id[:12]} at {ledger.name}, together "
            f"with the noised count of {unit}s that the merchant declared: epsilon "
            f"{shown_epsilon(training.epsilon)} at delta {number_format.delta(delta)}{usual}, proved by "
            f"privacy loss distributions. Where there are several copies of a {unit}, epsilon of all of "
            f"them together is {copies}."
        ),
    ]
