"""Figures that people read, held against the history: a ledger's summary, and a training's own report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .epsilons import MIN_DELTA, History, held, pld_epsilon, rdp_epsilon, rdp_step, total
from .ledger import DUPLICATES
from .outcome import Merchant, Problem
from .reading import close
from .terms import multipliers


def hold_summary(merchant: Merchant) -> Iterator[Problem]:
    """Hold the figures that people read against the history."""
    summary, entries = merchant.raw["summary"], merchant.entries
    last = entries[-1] if entries else None
    charges = [entry["charge"] for entry in entries]
    exact = {
        "entries": len(entries),
        "head": None if last is None else last["hash"],
        "delta": None if last is None else last["epsilons"]["delta"],
        "epsilon_pld": None if last is None else last["epsilons"]["pld_after"],
        "epsilon_rdp": None if last is None else last["epsilons"]["rdp_after"],
        "least_noise_multiplier": min((c["guaranteed_noise_multiplier"] for c in charges), default=None),
        "largest_sample_rate": max((c["sample_rate"] for c in charges), default=None),
        "trainings": len({c["training_id"] for c in charges}),
        "seeded": sum(c["seeded"] for c in charges),
    }
    for name, value in exact.items():
        if summary[name] != value:
            yield Problem(None, f"the summary's {name} is {summary[name]}, the history's is {value}")
    if set(summary) != {*exact, "epsilon_aggregation_broken"}:
        yield Problem(None, "the summary has other figures than those that can be checked")
    if last is not None:
        broken = total(entries, "broken_noise_multiplier").epsilon(delta=last["epsilons"]["delta"])
        what = "PLD, if aggregation were broken"
        yield from held(summary["epsilon_aggregation_broken"], broken, what=what, entry=None)


def hold_report(
    report: Mapping[str, Any], plan: Mapping[str, Any], merchants: Iterable[Merchant]
) -> Iterator[Problem]:
    """Hold what a training's own report says of privacy against its plan and the ledgers."""
    privacy, training_id = report["privacy"], report["run"]["training_id"]
    charged = {
        merchant.name: [e for e in merchant.entries if e["charge"]["training_id"] == training_id]
        for merchant in merchants
    }
    charges = [entry["charge"] for entries in charged.values() for entry in entries]
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
    for name, noise in (("epsilon", guaranteed), ("epsilon_aggregation_broken", own)):
        history: History = ((plan["sample_rate"], noise, steps),) if steps else ()
        computed = pld_epsilon(history, left, rdp_epsilon(rdp_step(plan["sample_rate"], noise) * steps, left))
        yield from held(privacy[name], computed, what=f"PLD, the attached report's {name}", entry=None)
    proved = rdp_epsilon(rdp_step(plan["sample_rate"], guaranteed) * steps, left)
    yield from held(privacy["epsilon_rdp"], proved, what="RDP, in the attached report", entry=None)
    known = {merchant.name: merchant for merchant in merchants}
    for line in privacy["per_merchant"]:
        name = str(line["merchant"])[:64]
        if name not in known:
            continue
        rounds = len({entry["charge"]["round_number"] for entry in charged[name]})
        if line["rounds_charged"] != rounds:
            yield Problem(None, f"the attached report counts {line['rounds_charged']} rounds of {name}")
        for figure, entries in (("epsilon", charged[name]), ("epsilon_lifetime", known[name].entries)):
            what = f"PLD, {figure} of {name} in the attached report"
            computed = total(entries).epsilon(delta=plan["delta"])
            yield from held(line[figure], computed, what=what, entry=None)
