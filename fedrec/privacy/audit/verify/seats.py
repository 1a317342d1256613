"""Check a plan's committee: the draw of its seats, and what its corrupt members could open."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import comb
from typing import Any

from .encoding import close
from .outcome import Problem
from .plans import Peer, Plan
from .trust import MEMBERS, has_committee

LARGEST_COHORT, LARGEST_COMMITTEE = 1000, 100
LARGEST_RISK = 1e-6
"""Largest seat risk with which a merchant joins; its policy can't raise it."""


def fingerprint(roster: Sequence[Peer], witnesses: Sequence[Peer] = ()) -> str:
    """Compute the fingerprint of a roster and its witnesses.

    Args:
        roster: the plan's roster.
        witnesses: the plan's witnesses.

    Returns:
        The SHA-256 hash of all names and keys, in the order of names, merchants first.
    """
    named: list[Any] = ["fedrec/roster/1", sorted([peer.name, peer.signing_key] for peer in roster)]
    if witnesses:
        named[0] = "fedrec/roster/2"
        named.append(sorted([peer.name, peer.signing_key] for peer in witnesses))
    return hashlib.sha256(json.dumps(named, separators=(",", ":")).encode()).hexdigest()


def draw_seats(roster: Sequence[Peer], seats: int, witnesses: Sequence[Peer] = ()) -> list[str]:
    """Draw a committee: all witnesses, then merchants, those with the smallest hashes first.

    What is hashed is the fingerprint and the party's key.

    Args:
        roster: the plan's roster.
        seats: number of seats.
        witnesses: the witnesses that have a seat.

    Returns:
        The members' names, in the order of the draw.
    """
    start = b"fedrec/seats/1" + bytes.fromhex(fingerprint(roster, witnesses))
    places = [
        (role, hashlib.sha256(start + bytes.fromhex(peer.signing_key)).hexdigest(), peer.name)
        for role, peers in enumerate((witnesses, roster))
        for peer in peers
    ]
    return [name for _, _, name in sorted(places)[:seats]]


def seat_risk(*, cohort: int, colluders: int, seats: int, corrupt: int) -> float:
    """Compute the seat risk: the probability that a uniform draw seats more colluders than tolerated.

    Args:
        cohort: number of merchants on the roster.
        colluders: number of them that collude.
        seats: number of seats that are drawn among them.
        corrupt: number of corrupt ones among these seats that the committee tolerates.

    Returns:
        The upper tail of the hypergeometric distribution, computed exactly and rounded once.
    """
    bad = min(colluders, cohort)
    good = sum(comb(bad, k) * comb(cohort - bad, seats - k) for k in range(min(corrupt, bad, seats) + 1))
    return float(1 - Fraction(good, comb(cohort, seats)))


def check_committee(plan: Plan, here: str) -> Iterator[Problem]:
    """Check a plan's committee against the draw from its roster and the quorum rules.

    Args:
        plan: the plan.
        here: name of the plan in messages.

    Yields:
        Each rule that the committee breaks.
    """
    roster, committee, threshold = plan.roster, list(plan.committee), plan.threshold
    corrupt, members = plan.corrupt_members, len(committee)
    witnesses = plan.witnesses
    too_large = len(roster) > LARGEST_COHORT or max(members, len(witnesses)) > LARGEST_COMMITTEE
    if too_large or members > len(roster) + len(witnesses):
        beside = f" and {len(witnesses)} witnesses" if witnesses else ""
        yield Problem(None, f"{here} has a committee of {members} among {len(roster)} merchants{beside}")
        return
    witnesses = witnesses if has_committee(plan) else ()
    bad_witnesses, drawn = plan.corrupt_witnesses, members - len(witnesses)
    if committee != draw_seats(roster, members, witnesses):
        yield Problem(None, f"{here} has a committee that its roster doesn't draw")
    if not has_committee(plan):
        expected = MEMBERS[plan.trust["opened_by"]]
        counted = corrupt or bad_witnesses or plan.seat_risk
        if (members, threshold) != (expected, expected) or counted:
            yield Problem(None, f"{here} counts a committee that scheme {plan.scheme} doesn't have")
        return
    if not 1 <= threshold <= members:
        yield Problem(None, f"{here} asks for {threshold} of a committee of {members}")
    if corrupt < 1 or threshold <= corrupt:
        yield Problem(None, f"{here} lets {corrupt} corrupt members reach the threshold of {threshold}")
    if 2 * threshold - members <= corrupt:
        yield Problem(None, f"{here} lets two overlapping sets of a round be opened")
    if drawn < 0:
        yield Problem(None, f"{here} has a committee without a seat for each witness")
        return
    if not min(1, len(witnesses)) <= bad_witnesses <= min(corrupt, len(witnesses)):
        yield Problem(None, f"{here} takes {bad_witnesses} of {len(witnesses)} witnesses to be corrupt")
        return
    found = seat_risk(
        cohort=len(roster), colluders=plan.colluders, seats=drawn, corrupt=corrupt - bad_witnesses
    )
    if not close(plan.seat_risk, found):
        yield Problem(None, f"{here} states a seat risk of {plan.seat_risk:.3g}, not {found:.3g}")
    if found > LARGEST_RISK:
        yield Problem(None, f"{here} has a seat risk of {found:.3g}, over {LARGEST_RISK:g}")
