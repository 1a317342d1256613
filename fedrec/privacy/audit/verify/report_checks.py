"""Check the numbers in a ledger's summary and in a training's report against the ledger entries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .charge_checks import figures_multipliers, multipliers
from .encoding import close
from .epsilon_checks import BROKEN, History
from .epsilons import (
    MIN_DELTA,
    check_epsilon,
    checked_pld_epsilon,
    pld_epsilon_of_copies,
    rdp_epsilon,
    rdp_step,
)
from .epsilons import History as Steps
from .figures_checks import check_figures
from .ledger import DUPLICATES, ROUNDING_VARIANCE, charges_of, cost, costs_of, is_of_figures
from .modes import MODES
from .outcome import Merchant, Problem

COUNT_SIGMA = 20.0
"""Standard deviation of the noise in the count that every merchant of a training declared, in records."""


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
        history: Steps = (*counts, *_kinds(charges))
        found = max(found, checked_pld_epsilon(history, left) if left >= MIN_DELTA else math.inf)
    return found if math.isfinite(found) else None


def _kinds(charges: Sequence[Mapping[str, Any]]) -> Steps:
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


def check_report(
    report: Mapping[str, Any], plan: Mapping[str, Any], merchants: Iterable[Merchant]
) -> Iterator[Problem]:
    """Check the privacy section of a training's report against its plan and the ledgers.

    Args:
        report: the report, as parsed from JSON.
        plan: the training's plan.
        merchants: the bundle's merchants.

    Yields:
        Each value that differs.
    """
    privacy, training_id = report["privacy"], report["run"]["training_id"]
    charged = {
        merchant.name: [e for e in charges_of(merchant.entries) if e["charge"]["training_id"] == training_id]
        for merchant in merchants
    }
    charges = [entry["charge"] for entries in charged.values() for entry in entries]
    counts = {m.name: [e for e in m.entries if e["kind"] == "count"] for m in merchants}
    private, steps = MODES[plan["mode"]].private, privacy["steps"]
    begun = any(is_of_figures(charge) for charge in charges)
    least = max(
        (charge["round_number"] * charge["steps"] for charge in charges if not is_of_figures(charge)),
        default=0,
    )
    if not isinstance(steps, int) or not least <= steps <= plan["rounds"] * plan["local_steps"]:
        yield Problem(None, f"the attached report's steps are {steps}; {least} were charged")
        return
    section = report.get("site_figures")
    yield from check_figures(section, plan, charged=begun)
    # Whether the figures' round was begun, the report says; it can't say no where it was charged.
    begun |= section is not None and bool(section["begun"])
    more = figures_multipliers(plan) if begun and plan.get("site_figures") is not None else None
    guaranteed, own = multipliers(plan)
    figures = {name: plan[name] for name in ("mode", "unit", "sample_rate", "clip", "colluders")}
    figures |= {"min_contributors": plan["min_contributors"], "adjacency": "add-or-remove"}
    figures |= {"duplicate_policy": DUPLICATES[plan["unit"]]}
    figures |= {"delta": plan["delta"] if private else None}
    figures |= {"noise_multiplier": guaranteed if private else None}
    if any(charge["seeded"] for charge in charges):
        figures["seeded"] = True
    aggregation = report["secure_aggregation"]
    for name in ("scheme", "trust"):
        if aggregation[name] != plan[name]:
            yield Problem(
                None, f"the attached report's {name} is not the plan's: {str(aggregation[name])[:200]}"
            )
    for name, value in figures.items():
        stated = privacy[name]
        same = close(stated, value) if isinstance(value, float) and stated is not None else stated == value
        if not same:
            yield Problem(None, f"the attached report's {name} is {stated}, {value} follows")
    beta = max((charge["beta"] for charge in charges), default=MIN_DELTA)
    declared = math.sqrt(COUNT_SIGMA**2 - ROUNDING_VARIANCE)

    spent = (steps + (more is not None)) * beta

    def history(noise: float, view: int) -> Steps:
        last = () if more is None else ((1.0, more[view], 1),)
        return ((1.0, declared, 1), *last, *(((plan["sample_rate"], noise, steps),) if steps else ()))

    def proved(noise: float, delta: float, view: int = 0) -> float:
        left = delta - spent
        return checked_pld_epsilon(history(noise, view), left) if private and left >= MIN_DELTA else math.inf

    exact = {
        "epsilon": proved(guaranteed, plan["delta"]),
        "epsilon_aggregation_broken": proved(own, plan["delta"], 1),
        "epsilon_at_1e-5": proved(guaranteed, 1e-5),
    }
    for name, value in exact.items():
        yield from check_epsilon(privacy[name], value, what=f"PLD, the attached report's {name}", entry=None)
    if set(privacy["epsilon_of_copies"]) != {"2", "4"}:
        yield Problem(None, "the attached report has an epsilon for other numbers of copies than 2 and 4")
        return
    for copies, stated in privacy["epsilon_of_copies"].items():
        left = plan["delta"] - int(copies) * spent
        found = math.inf
        if private:
            found = pld_epsilon_of_copies(history(guaranteed, 0), left, copies=int(copies))
        # Both are above the exact epsilon, by their discretization.
        same = (
            stated is None if math.isinf(found) else stated is not None and close(stated, found, within=0.01)
        )
        if not same:
            yield Problem(
                None, f"the attached report's epsilon for {copies} copies is {stated}, not {found:.4g}"
            )
    by_rdp = math.inf
    if private:
        stepped = sum(rdp_step(rate, noise) * count for rate, noise, count in history(guaranteed, 0))
        by_rdp = rdp_epsilon(np.asarray(stepped), plan["delta"] - spent)
    word = rating(None if privacy["seeded"] else privacy["epsilon"])
    if privacy["rating"]["word"] != word:
        yield Problem(None, f"the attached report calls its budget {privacy['rating']['word']}, it is {word}")
    events = [
        {
            "kind": "training",
            "sample_rate": plan["sample_rate"],
            "noise_multiplier": guaranteed,
            "steps": steps,
        },
        *(
            ({"kind": "figures", "sample_rate": 1.0, "noise_multiplier": more[0], "steps": 1},)
            if more is not None
            else ()
        ),
        {"kind": "count", "sample_rate": 1.0, "noise_multiplier": COUNT_SIGMA, "steps": 1},
    ]
    if not _same_events(privacy["events"], events):
        yield Problem(None, "the attached report lists other events than plan and counts give")
    yield from check_epsilon(
        privacy["cross_checks"]["rdp"], by_rdp, what="RDP, in the attached report", entry=None
    )
    known = {merchant.name: merchant for merchant in merchants}
    for line in privacy["per_merchant"]:
        name = str(line["merchant"])[:64]
        if name not in known:
            continue
        rounds = len({entry["charge"]["round_number"] for entry in charged[name]})
        if line["rounds_charged"] != rounds:
            yield Problem(None, f"the attached report counts {line['rounds_charged']} rounds of {name}")
        merchant, last = known[name], costs_of(known[name].entries)[-1]["epsilons"]
        left = plan["delta"] - sum(
            entry["charge"]["beta"] * entry["charge"]["steps"] for entry in charged[name]
        )
        own_training: Steps = (
            (1.0, declared, len(counts[name])),
            *_kinds([entry["charge"] for entry in charged[name]]),
        )
        figures_of = {
            "epsilon": (checked_pld_epsilon(own_training, left) if left >= MIN_DELTA else math.inf, "PLD"),
            "epsilon_lifetime": (
                History.of(merchant.entries).spent(epsilon=float(last["cap_epsilon"]), delta=last["delta"]),
                "the lifetime filter",
            ),
        }
        for figure, (computed, rule) in figures_of.items():
            what = f"{rule}, {figure} of {name} in the attached report"
            yield from check_epsilon(line[figure], computed, what=what, entry=None)


def rating(epsilon: float | None) -> str:
    """Rate an epsilon in words, on the scale that reports use."""
    scale = ((1.0, "strong"), (4.0, "moderate"), (10.0, "weak"))
    return next(
        (word for most, word in scale if epsilon is not None and epsilon <= most), "little protection"
    )


def _same_events(stated: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> bool:
    if len(stated) != len(events):
        return False
    return all(
        set(said) == set(event)
        and said["kind"] == event["kind"]
        and all(close(said[name], event[name]) for name in ("sample_rate", "noise_multiplier", "steps"))
        for said, event in zip(stated, events, strict=True)
    )
