"""What a plan states of its scheme: who opens sums, who reads single updates, which epsilon holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .outcome import Problem

MEMBERS = {"nobody": 0, "holder": 1, "committee": None}
"""Who opens sums, and how many seats that takes; None where the plan has a committee of its own size."""
CLOSED, BY_HOLDER, BY_SERVER = "nobody_below_threshold", "key_holder", "server"
"""Who can read a single update."""


def trust_problems(plan: Mapping[str, Any], here: str) -> Iterator[Problem]:
    """See that a plan says all of it, and nothing that can't be; ``here`` names the plan."""
    trust = plan["trust"]
    if set(trust) != {"opened_by", "reads_single_updates", "epsilon_of"} or (
        trust["opened_by"] not in MEMBERS
        or trust["reads_single_updates"] not in (CLOSED, BY_HOLDER, BY_SERVER)
        or trust["epsilon_of"] not in ("sum", "share")
    ):
        yield Problem(None, f"{here} doesn't say who can read a single update, and which epsilon holds")
        return
    if trust["reads_single_updates"] == CLOSED and trust["opened_by"] != "committee":
        yield Problem(None, f"{here} states that nobody reads single updates, without a committee")
    if trust["reads_single_updates"] == BY_HOLDER and trust["opened_by"] != "holder":
        yield Problem(None, f"{here} states that the holder of a key reads single updates, and has none")
    if trust["epsilon_of"] == "sum" and trust["reads_single_updates"] != CLOSED:
        yield Problem(None, f"{here} counts the noise of a whole sum where single updates can be read")


def counts_sum(plan: Mapping[str, Any]) -> bool:
    """Whether the plan's epsilon is that of the whole sum's noise, not of one merchant's share."""
    trust = plan["trust"]
    return bool(trust["epsilon_of"] == "sum" and trust["reads_single_updates"] == CLOSED)


def has_committee(plan: Mapping[str, Any]) -> bool:
    """Whether a committee opens the plan's sums."""
    return bool(plan["trust"]["opened_by"] == "committee")


def opens_in_clear(plan: Mapping[str, Any]) -> bool:
    """Whether the server opens the plan's sums without asking anybody."""
    return bool(plan["trust"]["opened_by"] == "nobody")


def readable_by_server(plan: Mapping[str, Any]) -> bool:
    """Whether the server by itself reads single updates, or the plan doesn't say that it can't."""
    trust = plan.get("trust")
    return not isinstance(trust, dict) or trust.get("reads_single_updates") not in (CLOSED, BY_HOLDER)
