"""Check a plan's committee: the draw of its seats, and what its corrupt members could open."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import comb
from typing import Any

from .encoding import close
from .outcome import Problem
from .trust import MEMBERS, has_committee

LARGEST_COHORT, LARGEST_COMMITTEE = 1000, 100
LARGEST_RISK = 1e-6
"""Largest seat risk with which a merchant joins; its policy can't raise it."""


def fingerprint(roster: Sequence[Mapping[str, Any]]) -> str:
    """Return the SHA-256 hash of a roster's names and keys, in the order of names."""
    entries = sorted([peer["name"], peer["signing_key"]] for peer in roster)
    return hashlib.sha256(
        json.dumps(["fedrec/roster/1", entries], separators=(",", ":")).encode()
    ).hexdigest()


def draw_seats(roster: Sequence[Mapping[str, Any]], seats: int) -> list[str]:
    """Draw a committee: the merchants with the smallest hashes of the roster's fingerprint and their key.

    Args:
        roster: the plan's roster.
        seats: number of seats.

    Returns:
        The members' names, in the order of the draw.
    """
    start = b"fedrec/seats/1" + bytes.fromhex(fingerprint(roster))
    places = [
        (hashlib.sha256(start + bytes.fromhex(peer["signing_key"])).hexdigest(), peer["name"])
        for peer in roster
    ]
    return [name for _, name in sorted(places)[:seats]]


def seat_risk(*, cohort: int, colluders: int, seats: int, corrupt: int) -> float:
    """Compute the seat risk: the probability that a uniform draw seats more colluders than tolerated.

    Args:
        cohort: number of merchants on the roster.
        colluders: number of them that collude.
        seats: number of seats.
        corrupt: number of corrupt seats that the committee tolerates.

    Returns:
        The upper tail of the hypergeometric distribution, computed exactly and rounded once.
    """
    bad = min(colluders, cohort)
    good = sum(comb(bad, k) * comb(cohort - bad, seats - k) for k in range(min(corrupt, bad, seats) + 1))
    return float(1 - Fraction(good, comb(cohort, seats)))


def check_committee(plan: Mapping[str, Any], here: str) -> Iterator[Problem]:
    """Check a plan's committee against the draw from its roster and the quorum rules.

    Args:
        plan: the plan, as parsed from JSON.
        here: name of the plan in messages.

    Yields:
        Each rule that the committee breaks.
    """
    roster, committee, threshold = plan["roster"], list(plan["committee"]), plan["threshold"]
    corrupt, members = plan["corrupt_members"], len(committee)
    if len(roster) > LARGEST_COHORT or members > LARGEST_COMMITTEE or members > len(roster):
        yield Problem(None, f"{here} has a committee of {members} among {len(roster)} merchants")
        return
    if committee != draw_seats(roster, members):
        yield Problem(None, f"{here} has a committee that its roster doesn't draw")
    if not has_committee(plan):
        expected = MEMBERS[plan["trust"]["opened_by"]]
        if (members, threshold) != (expected, expected) or corrupt or plan["seat_risk"]:
            yield Problem(None, f"{here} counts a committee that scheme {plan['scheme']} doesn't have")
        return
    if not 1 <= threshold <= members:
        yield Problem(None, f"{here} asks for {threshold} of a committee of {members}")
    if corrupt < 1 or threshold <= corrupt:
        yield Problem(None, f"{here} lets {corrupt} corrupt members reach the threshold of {threshold}")
    if 2 * threshold - members <= corrupt:
        yield Problem(None, f"{here} lets two overlapping sets of a round be opened")
    found = seat_risk(cohort=len(roster), colluders=plan["colluders"], seats=members, corrupt=corrupt)
    if not close(plan["seat_risk"], found):
        yield Problem(None, f"{here} states a seat risk of {plan['seat_risk']:.3g}, not {found:.3g}")
    if found > LARGEST_RISK:
        yield Problem(None, f"{here} has a seat risk of {found:.3g}, over {LARGEST_RISK:g}")
