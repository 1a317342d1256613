"""Seats on the committee: who is drawn to them, how many there are, and how many corrupt ones are withstood.

With m members and threshold t, f corrupt members open nothing of their own if t > f. Two different survivor
sets of a round open only if 2t - m members answer twice, for any two quorums share so many; an honest member
answers once, so 2t - m > f keeps the second set closed (Bonawitz et al. 2017, section 6.2, for the masked
variant). t = floor(2m/3) + 1 leaves m - t members free to be absent, about a third, and withstands
f = 2t - m - 1 corrupt ones, about a third as well: m has to grow with f.

``colluders`` counts corrupt merchants of the whole cohort. Where all of them could sit on the committee and
be withstood, f is their number, and nothing rests on the draw. Where that would take too many seats, f is
what m and t withstand, and a fair draw passes it with a chance that the plan states, the tail of a
hypergeometric law.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedrec.protocol.plan import Peer, roster_fingerprint
from fedrec.protocol.schema import MAX_COMMITTEE
from fedrec.protocol.trust import OpenedBy

SEATS_CONTEXT = b"fedrec/seats/1"
SMALLEST_DEFAULT = 10
"""The default committee is everybody, up to so many; then it grows only as corrupt seats ask for it."""
LARGEST_FOR_CERTAIN = 40
"""Most seats by default for a guarantee that doesn't rest on the draw: every upload holds a box for each."""
PLANNED_SEAT_RISK = 1e-8
"""The largest chance of too many corrupt seats that a plan is made with by default."""


@dataclass(frozen=True)
class Seats:
    """A committee's numbers: m, t, f, and the chance that a fair draw seats more than f colluders."""

    members: int
    threshold: int
    corrupt: int
    risk: float


ONE_HOLDER = Seats(members=1, threshold=1, corrupt=0, risk=0.0)
"""Where one merchant holds the key: with the server it opens everything, so that no risk is counted."""
NOBODY = Seats(members=0, threshold=0, corrupt=0, risk=0.0)
"""Where sums are sent in clear."""


def seat_order(roster: Sequence[Peer]) -> tuple[str, ...]:
    """Return all names of a roster in the order in which they are seated.

    That of SHA-256(context, the roster's fingerprint, signing key), ascending: nobody chooses it for a roster
    that stands, and it can't be drawn again. Whoever enrols may try keys until the draw suits it.
    """
    fingerprint = bytes.fromhex(roster_fingerprint(roster))

    def place(peer: Peer) -> bytes:
        return hashlib.sha256(SEATS_CONTEXT + fingerprint + bytes.fromhex(peer.signing_key)).digest()

    return tuple(peer.name for peer in sorted(roster, key=place))


def seat_risk(*, cohort: int, colluders: int, members: int, corrupt: int) -> float:
    """Return the chance that a fair draw of ``members`` seats gives more than ``corrupt`` to colluders.

    Counted in integers and rounded once, so that every party finds the very same float.
    """
    bad = min(colluders, cohort)
    more = sum(
        math.comb(bad, seated) * math.comb(cohort - bad, members - seated)
        for seated in range(corrupt + 1, min(bad, members) + 1)
    )
    return more / math.comb(cohort, members)


def withstood(*, members: int, threshold: int) -> int:
    """Return the most corrupt seats f with 2t - m > f; t > f follows, for t is at most m."""
    return 2 * threshold - members - 1


def least_threshold(*, members: int, corrupt: int) -> int:
    """Return the least t with 2t - m > f; above m where no t has it."""
    return (members + corrupt) // 2 + 1


def default_threshold(*, members: int, corrupt: int) -> int:
    """Return floor(2m/3) + 1, or the least t that withstands ``corrupt`` where that is more; at most m."""
    return min(members, max(_two_thirds(members), least_threshold(members=members, corrupt=corrupt)))


def choose_seats(
    *,
    cohort: int,
    colluders: int,
    members: int | None = None,
    threshold: int | None = None,
    corrupt: int | None = None,
) -> Seats:
    """Settle a committee's numbers, those that are given as they are; whether they fit is checked elsewhere.

    The committee is the smallest of ten or more that withstands ``corrupt``, or else as many colluders as
    there are, at t = floor(2m/3) + 1. Where that passes 40 seats it is the smallest from there on whose draw
    has a risk of at most 1e-8. A cohort too small for either sits on it whole, with a higher threshold.
    """
    if members is None:
        members = _default_members(cohort, colluders=colluders, corrupt=corrupt)
    if corrupt is None:
        corrupt = _default_corrupt(cohort, colluders=colluders, members=members, threshold=threshold)
    if threshold is None:
        threshold = default_threshold(members=members, corrupt=corrupt)
    # Of more seats than merchants there is no draw; the check says so.
    seated = min(members, cohort)
    risk = seat_risk(cohort=cohort, colluders=colluders, members=seated, corrupt=corrupt)
    return Seats(members=members, threshold=threshold, corrupt=corrupt, risk=risk)


def seats_for(opened_by: OpenedBy, *, cohort: int, colluders: int) -> Seats:
    """Return the seats that a cohort has by default, by who opens sums."""
    if opened_by == "committee":
        return choose_seats(cohort=cohort, colluders=colluders)
    return ONE_HOLDER if opened_by == "holder" else NOBODY


def _two_thirds(members: int) -> int:
    return 2 * members // 3 + 1


def _default_members(cohort: int, *, colluders: int, corrupt: int | None) -> int:
    largest = min(cohort, LARGEST_FOR_CERTAIN if corrupt is None else MAX_COMMITTEE)
    for members in range(min(cohort, SMALLEST_DEFAULT), largest + 1):
        needed = min(colluders, members) if corrupt is None else corrupt
        if withstood(members=members, threshold=_two_thirds(members)) >= needed:
            return members
    if corrupt is None:
        for members in range(largest, min(cohort, MAX_COMMITTEE) + 1):
            most = withstood(members=members, threshold=_two_thirds(members))
            risk = seat_risk(cohort=cohort, colluders=colluders, members=members, corrupt=most)
            if risk <= PLANNED_SEAT_RISK:
                return members
    return largest


def _default_corrupt(cohort: int, *, colluders: int, members: int, threshold: int | None) -> int:
    worst = max(1, min(colluders, members))
    most = withstood(members=members, threshold=threshold or _two_thirds(members))
    if not 1 <= most < worst or members > cohort:
        return worst
    risk = seat_risk(cohort=cohort, colluders=colluders, members=members, corrupt=most)
    return most if risk <= PLANNED_SEAT_RISK else worst
