"""Figures that people read, held against the history: a ledger's summary, and a training's own report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .epsilons import MIN_DELTA, History, held, pld_epsilon, rdp_epsilon, rdp_step, total
from .ledger import DUPLICATES, ROUNDING_VARIANCE, charges_of, costs_of
from .outcome import Merchant, Problem
from .reading import close
from .terms import multipliers

COUNT_SIGMA = 20.0
"""The noise of the count that every merchant of a training declared."""


def hold_summary(merchant: Merchant) -> Iterator[Problem]:
    """Hold the figures that people read against the history."""
    summary, entries = merchant.raw["summary"], merchant.entries
    costs = costs_of(entries)
    last, counts = costs[-1], [entry["count"] for entry in costs if entry["kind"] == "count"]
    charges = [entry["charge"] for entry in charges_of(entries)]
    exact = {
        "entries": len(entries),
        "head": entries[-1]["hash"],
        "charges": len(charges),
        "size": counts[-1]["size"],
        "delta": last["epsilons"]["delta"],
        "epsilon_pld": last["epsilons"]["pld_after"],
        "epsilon_rdp": last["epsilons"]["rdp_after"],
        "least_noise_multiplier": min((c["guaranteed_noise_multiplier"] for c in charges), default=None),
        "largest_sample_rate": max((c["sample_rate"] for c in charges), default=None),
        "trainings": len({c["training_id"] for c in charges}),
        "seeded": sum(c["seeded"] for c in (*charges, *counts)),
    }
    for name, value in exact.items():
        if summary[name] != value:
            yield Problem(None, f"the summary's {name} is {summary[name]}, the history's is {value}")
    if set(summary) != {*exact, "epsilon_aggregation_broken"}:
        yield Problem(None, "the summary has other figures than those that can be checked")
    broken = total(entries, "broken_noise_multiplier").epsilon(delta=last["epsilons"]["delta"])
    what = "PLD, if aggregation were broken"
    yield from held(summary["epsilon_aggregation_broken"], broken, what=what, entry=None)


def hold_report(
    report: Mapping[str, Any], plan: Mapping[str, Any], merchants: Iterable[Merchant]
) -> Iterator[Problem]:
    """Hold what a training's own report says of privacy against its plan and the ledgers."""
    privacy, training_id = report["privacy"], report["run"]["training_id"]
    charged = {
        merchant.name: [e for e in charges_of(merchant.entries) if e["charge"]["training_id"] == training_id]
        for merchant in merchants
    }
    charges = [entry["charge"] for entries in charged.values() for entry in entries]
    counts = {m.name: [e for e in m.entries if e["kind"] == "count"] for m in merchants}
    private, steps = plan["mode"] != "off", privacy["steps"]
    least = max((charge["round_number"] * charge["steps"] for charge in charges), default=0)
    if not isinstance(steps, int) or not least <= steps <= plan["rounds"] * plan["local_steps"]:
        yield Problem(None, f"the attached report's steps are {steps}; {least} were charged")
        return
    guaranteed, own = multipliers(plan)
    figures = {name: plan[name] for name in ("mode", "unit", "sample_rate", "clip", "colluders")}
    figures |= {"min_contributors": plan["min_contributors"], "adjacency": "add-or-remove"}
    figures |= {"duplicate_policy": DUPLICATES[plan["unit"]]}
    figures |= {"delta": plan["delta"] if private else None}
    figures |= {"noise_multiplier": guaranteed if private else None}
    if any(charge["seeded"] for charge in charges):
        figures["seeded"] = True
    for name, value in figures.items():
        stated = privacy[name]
        same = close(stated, value) if isinstance(value, float) and stated is not None else stated == value
        if not same:
            yield Problem(None, f"the attached report's {name} is {stated}, {value} follows")
    left = plan["delta"] - steps * max((charge["beta"] for charge in charges), default=MIN_DELTA)
    declared = math.sqrt(COUNT_SIGMA**2 - ROUNDING_VARIANCE)
    counted = rdp_step(1.0, declared)
    for name, noise in (("epsilon", guaranteed), ("epsilon_aggregation_broken", own)):
        history: History = ((1.0, declared, 1), *(((plan["sample_rate"], noise, steps),) if steps else ()))
        rough = rdp_epsilon(
            rdp_step(plan["sample_rate"], noise) * steps + counted if steps else counted, left
        )
        computed = pld_epsilon(history, left, rough)
        yield from held(
            privacy[name],
            computed if private else math.inf,
            what=f"PLD, the attached report's {name}",
            entry=None,
        )
    stepped = rdp_step(plan["sample_rate"], guaranteed) * steps if steps else 0.0
    proved = rdp_epsilon(stepped + counted, left) if private else math.inf
    events = [
        {
            "kind": "training",
            "sample_rate": plan["sample_rate"],
            "noise_multiplier": guaranteed,
            "steps": steps,
        },
        {"kind": "count", "sample_rate": 1.0, "noise_multiplier": COUNT_SIGMA, "steps": 1},
    ]
    if not _same_events(privacy["events"], events):
        yield Problem(None, "the attached report lists other events than plan and counts give")
    yield from held(privacy["epsilon_rdp"], proved, what="RDP, in the attached report", entry=None)
    known = {merchant.name: merchant for merchant in merchants}
    for line in privacy["per_merchant"]:
        name = str(line["merchant"])[:64]
        if name not in known:
            continue
        rounds = len({entry["charge"]["round_number"] for entry in charged[name]})
        if line["rounds_charged"] != rounds:
            yield Problem(None, f"the attached report counts {line['rounds_charged']} rounds of {name}")
        own_training = [*counts[name], *charged[name]]
        for figure, entries in (("epsilon", own_training), ("epsilon_lifetime", known[name].entries)):
            what = f"PLD, {figure} of {name} in the attached report"
            computed = total(entries).epsilon(delta=plan["delta"])
            yield from held(line[figure], computed, what=what, entry=None)


def _same_events(stated: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> bool:
    if len(stated) != len(events):
        return False
    return all(
        set(said) == set(event)
        and said["kind"] == event["kind"]
        and all(close(said[name], event[name]) for name in ("sample_rate", "noise_multiplier", "steps"))
        for said, event in zip(stated, events, strict=True)
    )
