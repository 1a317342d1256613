"""Make the report of a deployed training from what the server knows, in the same schema as a simulation's.

Photos, ledgers and costs are the merchants' own. Of a merchant the server knows the size that it declared,
and the rounds of which it signed ledger heads. It doesn't know how much of its lifetime budget a merchant has
spent elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fedrec.privacy.derived_parameters import Derived
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.report.report_json import RunFacts, build_report, epsilon_after
from fedrec.server.round_records import RoundLine
from fedrec.vision.metrics import Metrics

EVALUATION_SPLIT = "eval-data"
"""Name of the split that is the operator's own public photos."""


def deployed_report(
    *,
    run_id: str,
    plan: TrainingPlan,
    derived: Derived,
    started: datetime,
    rounds_reserved: int,
    lines: Sequence[RoundLine],
    metrics: Metrics | None,
    sizes: Mapping[str, int],
    receipts: Mapping[str, int],
    seeded: bool,
    refusals: Mapping[str, str],
) -> dict[str, Any]:
    """Return the report of a training that has ended.

    Args:
        run_id: the run's id in the report.
        plan: the training's plan.
        derived: what follows from the plan.
        started: when the training first ran, UTC.
        rounds_reserved: number of rounds that may have been charged.
        lines: the records of the finished rounds.
        metrics: measured on the operator's own public photos, if any.
        sizes: how many records each merchant declared at its enrolment, by name.
        receipts: of how many rounds the server has signed a receipt, by merchant.
        seeded: whether any merchant said that its noise comes from a seed.
        refusals: where a merchant refused, and why.

    Returns:
        The content of ``report.json``.

    """
    return build_report(
        plan=plan,
        derived=derived,
        facts=RunFacts(
            id=run_id,
            engine="deployment",
            seconds=(datetime.now(UTC) - started).total_seconds(),
            peak_memory_bytes=_peak_bytes(),
            interrupted=False,
            rounds_reserved=rounds_reserved,
            seeded=seeded,
        ),
        lines=lines,
        metrics=metrics,
        split=EVALUATION_SPLIT if metrics is not None else None,
        data={
            "records": plan.records_total,
            "skipped": [],
            "duplicates_dropped": None,
            "near_duplicates": None,
            "evaluation_copies_dropped": None,
        },
        per_merchant=_per_merchant(
            plan, derived, sizes=sizes, receipts=receipts, rounds_reserved=rounds_reserved
        ),
        refusals=refusals,
    )


def _per_merchant(
    plan: TrainingPlan,
    derived: Derived,
    *,
    sizes: Mapping[str, int],
    receipts: Mapping[str, int],
    rounds_reserved: int,
) -> list[dict[str, Any]]:
    """Return the rounds that each merchant is known to be charged for, and the most that they may cost it."""
    # A merchant may have been charged for any round that was begun, even if its upload was lost.
    epsilon = epsilon_after(plan, derived, steps=rounds_reserved * plan.local_steps)
    return [
        {
            "merchant": peer.name,
            "records": sizes.get(peer.name),
            "epsilon": epsilon,
            "epsilon_lifetime": None,
            "rounds_charged": receipts.get(peer.name, 0),
        }
        for peer in plan.roster
    ]


def _peak_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes.

    The kernel counts it in kilobytes, but in bytes on macOS.
    """
    # Windows lacks this module; importing this file there must work, so that a clear error can be raised.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
