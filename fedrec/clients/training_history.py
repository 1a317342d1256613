"""Tell what each training that a merchant joined cost, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

from fedrec._internal.files import read_regular
from fedrec.clients.status_types import Budget, NextRound, TrainingHistory
from fedrec.clients.store_view import StoreView, readable_plan
from fedrec.errors import DataError
from fedrec.privacy.accounting.ledger_entries import ChargeEntry, Entry, charges
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex

MODELS: Final = "models"
"""Folder, in a merchant's home, of the models that its page has fetched, each by the training's id."""


def histories(
    view: StoreView, entries: Sequence[Entry], budget: Budget, *, home: Path
) -> tuple[TrainingHistory, ...]:
    """Describe the trainings that a merchant joined, the newest first.

    Args:
        view: what its store has.
        entries: its ledger's entries.
        budget: its budget.
        home: its folder.

    Returns:
        The trainings.
    """
    charged = by_training(entries)
    costs = {training.training_id: training for training in budget.trainings}
    still_open = None if view.open_plan is None else sha256_hex(view.open_plan)
    found = []
    for raw in reversed(view.plans):
        plan, name = readable_plan(raw), sha256_hex(raw)
        mine, cost = charged.get(name, []), costs.get(name)
        sent = view.sent.get(name, {})
        folder = home / MODELS / name[:16]
        found.append(
            TrainingHistory(
                training_id=name,
                model=(cost.model if cost else "") if plan is None else plan.model,
                mode="" if plan is None else plan.mode,
                merchants=0 if plan is None else plan.cohort,
                open=name == still_open,
                rounds=len(mine) if plan is None else plan.last_round,
                charged=len(mine),
                lost=_lost(mine),
                # Nothing here shows what came of the last round.
                never_changed=name != still_open and len(mine) > 1 and _lost(mine) == len(mine) - 1,
                first_at=mine[0].created_at if mine else None,
                last_at=mine[-1].created_at if mine else None,
                epsilon=0.0 if cost is None else cost.epsilon,
                delta=(cost.delta if cost else 0.0) if plan is None else plan.delta,
                seeded=0 if cost is None else cost.seeded,
                uploads=sent.get("upload", (0, 0))[0],
                answers=sent.get("answer", (0, 0))[0],
                bytes_sent=sum(size for _, size in sent.values()),
                model_fetched=str(folder) if folder.is_dir() else None,
                accuracy=_accuracy(folder),
                noise_alone=bool(mine) and name in view.without_photos,
            )
        )
    return tuple(found)


def by_training(entries: Sequence[Entry]) -> Mapping[str, list[ChargeEntry]]:
    """Return the charges of each training, the oldest first."""
    found: dict[str, list[ChargeEntry]] = {}
    for entry in charges(entries):
        found.setdefault(entry.charge.training_id, []).append(entry)
    return found


def next_round(plan: TrainingPlan, entries: Sequence[Entry]) -> NextRound | None:
    """Foresee the next round of the open training.

    Args:
        plan: its plan.
        entries: the ledger's entries.

    Returns:
        Its number, and how many seconds lay between the last rounds; None if all rounds are charged.
    """
    mine = by_training(entries).get(plan.training_id, [])
    last = max((entry.charge.round_number for entry in mine), default=0)
    if last >= plan.last_round:
        return None
    times = [datetime.fromisoformat(entry.created_at) for entry in mine[-9:]]
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    return NextRound(number=last + 1, rounds=plan.last_round, seconds_between=median(gaps) if gaps else None)


def _lost(charged: Sequence[ChargeEntry]) -> int:
    """Count the charged rounds that the model shows to have come to nothing."""
    models = [entry.charge.model_hash for entry in charged]
    return sum(before == after for before, after in pairwise(models))


def _accuracy(folder: Path) -> float | None:
    """Return the accuracy that a fetched model states of itself."""
    if not folder.is_dir():
        return None
    # Nobody has this folder who can't fetch a model, which needs the extra.
    from fedrec.recognition.bundle.manifest import LARGEST_MANIFEST, MANIFEST, read_manifest

    try:
        content = read_regular(folder / MANIFEST, most=LARGEST_MANIFEST + 1)
        manifest = read_manifest(content, where=MANIFEST)
    except (OSError, DataError):
        return None
    return next((figure.value for figure in manifest.measured if figure.name == "accuracy"), None)
