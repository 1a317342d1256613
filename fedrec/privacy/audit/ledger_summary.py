"""Summarise a ledger for an audit bundle and its pages: what was spent, by how many charges."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedrec.privacy.accounting.ledger_entries import Entry, charges, finite, last_count, spending
from fedrec.privacy.accounting.lifetime_spend import Lifetime
from fedrec.protocol.schema import Strict


class LedgerSummary(Strict):
    """A ledger's figures for people; ``verify`` recomputes each.

    Attributes:
        entries: number of entries.
        head: hash of the last one, hexadecimal.
        charges: number of charges of rounds.
        size: the declared number of units; None before a count.
        training_epsilon: the largest proved epsilon of a training by itself, without the declared counts that
            pages and reports count with it; None has no bound.
        training_delta: its delta; None where no round was charged.
        spent: what the lifetime filter counts for all of them against a cap of (``cap_epsilon``, ``delta``).
        spent_aggregation_broken: likewise, for somebody who sees every upload in clear.
        cap_epsilon: the cap of the last entry's policy.
        delta: the delta of that cap.
        least_noise_multiplier: the least of all charges; None where no round was charged.
        largest_sample_rate: the largest of all charges; None likewise.
        trainings: number of trainings that were charged for.
        seeded: how many costs had their noise from a seed.
    """

    entries: int
    head: str
    charges: int
    size: int | None
    training_epsilon: float | None
    training_delta: float | None
    spent: float | None
    spent_aggregation_broken: float | None
    cap_epsilon: float
    delta: float
    least_noise_multiplier: float | None
    largest_sample_rate: float | None
    trainings: int
    seeded: int


def summarise(entries: Sequence[Entry]) -> LedgerSummary:
    """Return the figures of a ledger that holds a cost."""
    costs = spending(entries)
    last, declared = costs[-1].epsilons, last_count(entries)
    charged = charges(entries)
    lifetime = Lifetime.of(costs)
    broken = lifetime.reading(epsilon=last.cap_epsilon, delta=last.delta, view="aggregation_broken")
    ends = {entry.charge.training_id: entry for entry in charged}
    worst = max(ends.values(), key=lambda entry: _infinite(entry.epsilons.own_epsilon), default=None)
    return LedgerSummary(
        entries=len(entries),
        head=entries[-1].hash.hex(),
        charges=len(charged),
        size=None if declared is None else declared.size,
        training_epsilon=0.0 if worst is None else worst.epsilons.own_epsilon,
        training_delta=None if worst is None else worst.charge.delta,
        spent=last.spent_after,
        spent_aggregation_broken=finite(broken.spent),
        cap_epsilon=last.cap_epsilon,
        delta=last.delta,
        least_noise_multiplier=min((e.charge.guaranteed_noise_multiplier for e in charged), default=None),
        largest_sample_rate=max((e.charge.sample_rate for e in charged), default=None),
        trainings=len(ends),
        seeded=sum(entry.cost.seeded for entry in costs),
    )


def _infinite(epsilon: float | None) -> float:
    return math.inf if epsilon is None else epsilon
