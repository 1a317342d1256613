"""Make the report of a deployed training from what the server knows, in the same schema as a simulation's.

Photos, ledgers and costs are the merchants' own. Of a merchant the server knows the size that it declared,
and the rounds of which it signed ledger heads. It doesn't know how much of its lifetime budget a merchant has
spent elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from fedrec.protocol.training_report.privacy_section import MerchantLine
from fedrec.protocol.training_report.report import TrainingReport
from fedrec.protocol.training_report.run_section import DEPLOYED, DataSection
from fedrec.server.report.epsilons import epsilon_after
from fedrec.server.report.report_json import build_report
from fedrec.server.report.training_result import RunFacts, TrainingResult
from fedrec.server.trainings import Training


def deployed_report(
    result: TrainingResult,
    *,
    training: Training,
    rounds_reserved: int,
    sizes: Mapping[str, int],
    receipts: Mapping[str, int],
    seeded: bool,
) -> TrainingReport:
    """Return the report of a training that has ended.

    Args:
        result: the training's result; its metrics are those of the operator's own public photos.
        training: the training.
        rounds_reserved: number of rounds that may have been charged.
        sizes: how many records each merchant declared at its enrolment, by name.
        receipts: of how many rounds the server has signed a receipt, by merchant.
        seeded: whether any merchant said that its noise comes from a seed.

    Returns:
        The report.
    """
    started = training.started() or datetime.now(UTC)
    earlier = training.start_from()
    problems = [
        f"STARTED from the result of training {earlier}: what that one cost the merchants isn't in the "
        "epsilon of this report; their ledgers count both together."
    ]
    return build_report(
        result,
        facts=RunFacts(
            id=training.run_id(),
            engine=DEPLOYED,
            seconds=(datetime.now(UTC) - started).total_seconds(),
            peak_memory_bytes=_peak_bytes(),
            interrupted=False,
            rounds_reserved=rounds_reserved,
            seeded=seeded,
        ),
        data=DataSection(
            records=result.plan.records_total,
            skipped=(),
            ignored={},
            folders=None,
            notes=(),
            duplicates_dropped=None,
            near_duplicates=None,
            evaluation_copies_dropped=None,
        ),
        per_merchant=_per_merchant(result, sizes=sizes, receipts=receipts, rounds_reserved=rounds_reserved),
        problems=() if earlier is None else problems,
    )


def _per_merchant(
    result: TrainingResult,
    *,
    sizes: Mapping[str, int],
    receipts: Mapping[str, int],
    rounds_reserved: int,
) -> tuple[MerchantLine, ...]:
    """Return the rounds that each merchant is known to be charged for, and the most that they may cost it."""
    # A merchant may have been charged for any round that was begun, even if its upload was lost.
    plan = result.plan
    begun = result.figures is not None
    epsilon = epsilon_after(plan, result.derived, steps=rounds_reserved * plan.local_steps, figures=begun)
    return tuple(
        MerchantLine(
            merchant=peer.name,
            records=sizes.get(peer.name),
            epsilon=epsilon,
            epsilon_lifetime=None,
            rounds_charged=receipts.get(peer.name, 0),
        )
        for peer in plan.roster
    )


def _peak_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes.

    The kernel counts it in kilobytes, but in bytes on macOS.
    """
    # Windows lacks this module; importing this file there must work, so that a clear error can be raised.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
