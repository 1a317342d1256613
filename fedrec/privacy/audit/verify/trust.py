"""Check the trust model that a plan states: who opens sums, who reads single updates, which epsilon holds."""

from __future__ import annotations

from collections.abc import Iterator

from .outcome import Problem
from .plans import Plan

MEMBERS = {"nobody": 0, "holder": 1, "committee": None}
"""Number of committee seats by who opens sums; None if the plan states the committee's size."""
CLOSED, BY_HOLDER, BY_SERVER = "nobody_below_threshold", "key_holder", "server"
"""Who can read a single merchant's update."""


def check_trust(plan: Plan, here: str) -> Iterator[Problem]:
    """Check that a plan states its trust model completely and without contradiction.

    Args:
        plan: the plan.
        here: name of the plan in messages.

    Yields:
        Each contradiction.
    """
    trust = plan.trust
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


def counts_sum(plan: Plan) -> bool:
    """Return whether the plan's epsilon is that of a whole sum's noise, not of one merchant's share."""
    trust = plan.trust
    return bool(trust["epsilon_of"] == "sum" and trust["reads_single_updates"] == CLOSED)


def has_committee(plan: Plan) -> bool:
    """Return whether a committee opens the plan's sums."""
    return bool(plan.trust["opened_by"] == "committee")


def opens_in_clear(plan: Plan) -> bool:
    """Return whether the server opens the plan's sums by itself."""
    return bool(plan.trust["opened_by"] == "nobody")


def readable_by_server(plan: Plan) -> bool:
    """Return whether the server can read single updates; True also if the plan doesn't state it."""
    return plan.trust.get("reads_single_updates") not in (CLOSED, BY_HOLDER)
