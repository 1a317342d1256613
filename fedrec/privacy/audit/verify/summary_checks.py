"""Check the numbers in a ledger's summary against the ledger's entries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .epsilon_checks import BROKEN, History
from .epsilons import MIN_DELTA, Steps, check_epsilon, checked_pld_epsilon
from .ledger import charges_of, cost, costs_of, is_of_figures
from .outcome import Merchant, Problem


def check_summary(merchant: Merchant) -> Iterator[Problem]:
    """Check a merchant's summary against its ledger entries."""
    summary, entries = merchant.raw["summary"], merchant.entries
    costs = costs_of(entries)
    last, counts = costs[-1], [entry["count"] for entry in costs if entry["kind"] == "count"]
    charges = [entry["charge"] for entry in charges_of(entries)]
    epsilons = last["epsilons"]
    own, own_delta = largest_training(entries)
    exact = {
        "entries": len(entries),
        "head": entries[-1]["hash"],
        "charges": len(charges),
        "size": counts[-1]["size"],
        "training_epsilon": own,
        "training_delta": own_delta,
        "spent": epsilons["spent_after"],
        "cap_epsilon": epsilons["cap_epsilon"],
        "delta": epsilons["delta"],
        "least_noise_multiplier": min((c["guaranteed_noise_multiplier"] for c in charges), default=None),
        "largest_sample_rate": max((c["sample_rate"] for c in charges), default=None),
        "trainings": len({c["training_id"] for c in charges}),
        "seeded": sum(c["seeded"] for c in (*charges, *counts)),
    }
    for name, value in exact.items():
        if summary[name] != value:
            yield Problem(None, f"the summary's {name} is {summary[name]}, the history's is {value}")
    if set(summary) != {*exact, "spent_aggregation_broken"}:
        yield Problem(None, "the summary has other figures than those that can be checked")
    broken = History.of(entries).spent(
        epsilon=float(epsilons["cap_epsilon"]), delta=epsilons["delta"], noise=BROKEN
    )
    what = "the lifetime filter, if aggregation were broken"
    yield from check_epsilon(summary["spent_aggregation_broken"], broken, what=what, entry=None)


def largest_training(entries: Iterable[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Return the largest recorded epsilon of a training and its delta; 0 and None before the first charge."""
    last = {entry["charge"]["training_id"]: entry for entry in charges_of(entries)}
    if not last:
        return 0.0, None

    def size(entry: Mapping[str, Any]) -> float:
        own = entry["epsilons"]["own_epsilon"]
        return math.inf if own is None else float(own)

    worst = max(last.values(), key=size)
    return worst["epsilons"]["own_epsilon"], worst["charge"]["delta"]


def largest_with_counts(entries: Sequence[Mapping[str, Any]]) -> float | None:
    """Compute the largest epsilon of a training together with all declared counts, by PLD.

    Args:
        entries: the ledger's entries.

    Returns:
        Epsilon; None if there is no bound.
    """
    counts: Steps = tuple(
        (about["sample_rate"], about["guaranteed_noise_multiplier"], about["steps"])
        for about in (cost(entry) for entry in entries if entry["kind"] == "count")
    )
    trainings: dict[str, list[Mapping[str, Any]]] = {}
    for entry in charges_of(entries):
        trainings.setdefault(entry["charge"]["training_id"], []).append(entry["charge"])
    found = 0.0
    for charges in trainings.values():
        left = charges[0]["delta"] - sum(charge["steps"] * charge["beta"] for charge in charges)
        history: Steps = (*counts, *kinds_of(charges))
        found = max(found, checked_pld_epsilon(history, left) if left >= MIN_DELTA else math.inf)
    return found if math.isfinite(found) else None


def kinds_of(charges: Sequence[Mapping[str, Any]]) -> Steps:
    """Return the steps of a training's charges; those of its site figures are of another kind."""
    parts = [[c for c in charges if is_of_figures(c) == figures] for figures in (False, True)]
    return tuple(
        (
            float(part[0]["sample_rate"]),
            float(part[0]["guaranteed_noise_multiplier"]),
            sum(charge["steps"] for charge in part),
        )
        for part in parts
        if part
    )
