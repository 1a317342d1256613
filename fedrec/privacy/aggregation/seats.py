"""Choose a committee: its members by a draw, its size, its threshold and the corrupt seats it tolerates.

Let the committee have m members, threshold t and f corrupt members. The corrupt members alone open nothing if
t > f. Any two quorums share at least 2t - m members, so two different survivor sets of a round open only if
2t - m members answer twice. An honest member answers once, so 2t - m > f keeps the second set closed
(Bonawitz et al. 2017, section 6.2, for the masked variant). t = floor(2m/3) + 1 allows m - t members to be
absent, about a third, and tolerates f = 2t - m - 1 corrupt members, also about a third: m must grow with f.

``colluders`` is the number of corrupt merchants in the whole cohort. If the committee could tolerate all of
them, f is their number, and the guarantee doesn't depend on the draw. If that would take too many seats, f is
what m and t tolerate. A fair draw then seats more than f colluders with a probability that the plan states,
the tail of a hypergeometric distribution.

Witnesses are members without photos. All of a plan's witnesses are seated, before the merchants that are
drawn. They come in addition: the number of merchants' seats doesn't shrink for them. f counts them too: half
of them, rounded down and at least one, are taken to be corrupt beside the merchants' colluders.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedrec.protocol.plan import Peer
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from fedrec.protocol.schema import MAX_COMMITTEE

SEATS_CONTEXT = b"fedrec/seats/1"
SMALLEST_DEFAULT = 10
"""Up to this size the default committee is the whole cohort; beyond it grows only with the corrupt seats."""
LARGEST_FOR_CERTAIN = 40
"""Most default seats for a guarantee independent of the draw; an upload contains a box for each seat."""
PLANNED_SEAT_RISK = 1e-8
"""The largest probability of too many corrupt seats in a plan with default numbers."""


@dataclass(frozen=True)
class Seats:
    """A committee's numbers: m, t, f, how many of the f are witnesses, and the risk.

    ``risk`` is the probability that a fair draw of the merchants' seats gives more of them to colluders than
    the f seats that aren't corrupt witnesses'.
    """

    members: int
    threshold: int
    corrupt: int
    risk: float
    corrupt_witnesses: int = 0


@dataclass(frozen=True)
class WitnessSeats:
    """How many witnesses are on a committee, and how many of them may be corrupt."""

    count: int
    corrupt: int


NO_WITNESSES = WitnessSeats(count=0, corrupt=0)
"""The committee has merchants only."""
ONE_HOLDER = Seats(members=1, threshold=1, corrupt=0, risk=0.0)
"""The numbers if one merchant holds the key: with the server it opens everything, so there is no risk."""
NOBODY = Seats(members=0, threshold=0, corrupt=0, risk=0.0)
"""The numbers if updates are not encrypted."""


def seat_order(roster: Sequence[Peer], witnesses: Sequence[Peer] = ()) -> tuple[str, ...]:
    """Draw the order in which witnesses and merchants take the seats of the committee, witnesses first.

    The order is ascending by SHA-256(context, fingerprint of roster and witnesses, signing key). Nobody can
    choose it for a fixed roster, and it can't be drawn again. But a merchant that enrols can try keys until
    the draw suits it.

    Args:
        roster: the merchants.
        witnesses: the witnesses that sit on the committee.

    Returns:
        All names, in that order.
    """
    fingerprint = bytes.fromhex(roster_fingerprint(roster, witnesses))

    def place(peer: Peer) -> bytes:
        return hashlib.sha256(SEATS_CONTEXT + fingerprint + bytes.fromhex(peer.signing_key)).digest()

    return tuple(peer.name for peers in (witnesses, roster) for peer in sorted(peers, key=place))


def default_corrupt_witnesses(witnesses: int) -> int:
    """Return how many witnesses are taken to be corrupt: half of them rounded down, at least one if any."""
    return max(1, witnesses // 2) if witnesses else 0


def seat_risk(*, cohort: int, colluders: int, members: int, corrupt: int) -> float:
    """Compute the probability that a fair draw gives too many seats to colluders.

    It is computed in integers and rounded once, so that every party gets the same float.

    Args:
        cohort: merchants of the training.
        colluders: corrupt merchants among them.
        members: seats of the committee that are drawn among merchants.
        corrupt: corrupt ones of these seats that are tolerated.

    Returns:
        The probability of more than ``corrupt`` corrupt seats.
    """
    bad = min(colluders, cohort)
    more = sum(
        math.comb(bad, seated) * math.comb(cohort - bad, members - seated)
        for seated in range(max(0, corrupt + 1), min(bad, members) + 1)
    )
    return more / math.comb(cohort, members)


def withstood(*, members: int, threshold: int) -> int:
    """Compute the most corrupt seats f with 2t - m > f; t > f follows, because t <= m.

    Args:
        members: seats m.
        threshold: threshold t.

    Returns:
        f = 2t - m - 1; may be negative.
    """
    return 2 * threshold - members - 1


def least_threshold(*, members: int, corrupt: int) -> int:
    """Compute the smallest threshold t with 2t - m > f.

    Args:
        members: seats m.
        corrupt: corrupt seats f.

    Returns:
        t; above m if no threshold satisfies the condition.
    """
    return (members + corrupt) // 2 + 1


def default_threshold(*, members: int, corrupt: int) -> int:
    """Compute the default threshold: floor(2m/3) + 1, or more to tolerate the corrupt seats.

    Args:
        members: seats m.
        corrupt: corrupt seats f.

    Returns:
        The threshold, at most m.
    """
    return min(members, max(_two_thirds(members), least_threshold(members=members, corrupt=corrupt)))


def choose_seats(
    *,
    cohort: int,
    colluders: int,
    members: int | None = None,
    threshold: int | None = None,
    corrupt: int | None = None,
    witnesses: int = 0,
    corrupt_witnesses: int | None = None,
) -> Seats:
    """Choose the numbers of a committee that are not given.

    The committee is the smallest of all witnesses and at least ten merchants that tolerates ``corrupt``
    seats, or all colluders and corrupt witnesses if that is not given, at t = floor(2m/3) + 1. If that takes
    more than 40 seats, it is the smallest of at least 40 whose draw has a risk of at most 1e-8. If the cohort
    is too small for either, all merchants sit on the committee, with a higher threshold.
    :func:`fedrec.privacy.aggregation.committee.check_quorum` checks the result.

    Args:
        cohort: merchants of the training.
        colluders: merchants that may collude with the server.
        members: seats, if given.
        threshold: threshold, if given.
        corrupt: corrupt seats to tolerate, witnesses' included, if given.
        witnesses: witnesses, which all have a seat.
        corrupt_witnesses: how many of them may be corrupt, if given.

    Returns:
        The numbers; given ones are unchanged.
    """
    if corrupt_witnesses is None:
        corrupt_witnesses = default_corrupt_witnesses(witnesses)
    asked = _Asked(cohort, colluders, witnesses, corrupt_witnesses)
    if members is None:
        members = _default_members(asked, corrupt=corrupt)
    if corrupt is None:
        corrupt = _default_corrupt(asked, members=members, threshold=threshold)
    if threshold is None:
        threshold = default_threshold(members=members, corrupt=corrupt)
    return Seats(
        members=members,
        threshold=threshold,
        corrupt=corrupt,
        risk=asked.risk(members=members, corrupt=corrupt),
        corrupt_witnesses=corrupt_witnesses,
    )


@dataclass(frozen=True)
class _Asked:
    """What a committee is chosen for."""

    cohort: int
    colluders: int
    witnesses: int
    corrupt_witnesses: int

    def worst(self, members: int) -> int:
        """Return how many of ``members`` seats are corrupt if each colluder that can has one."""
        return min(self.colluders, max(0, members - self.witnesses)) + self.corrupt_witnesses

    def risk(self, *, members: int, corrupt: int) -> float:
        """Return the probability that the draw gives colluders more seats than are tolerated."""
        # There is no draw of more seats than merchants; ``check_quorum`` reports it.
        drawn = min(max(0, members - self.witnesses), self.cohort)
        return seat_risk(
            cohort=self.cohort,
            colluders=self.colluders,
            members=drawn,
            corrupt=corrupt - self.corrupt_witnesses,
        )


def _two_thirds(members: int) -> int:
    return 2 * members // 3 + 1


def _default_members(asked: _Asked, *, corrupt: int | None) -> int:
    smallest = asked.witnesses + min(asked.cohort, SMALLEST_DEFAULT)
    most_seats = min(asked.witnesses + asked.cohort, MAX_COMMITTEE)
    largest = min(most_seats, max(smallest, LARGEST_FOR_CERTAIN)) if corrupt is None else most_seats
    for members in range(smallest, largest + 1):
        needed = asked.worst(members) if corrupt is None else corrupt
        if withstood(members=members, threshold=_two_thirds(members)) >= needed:
            return members
    if corrupt is None:
        for members in range(largest, most_seats + 1):
            most = withstood(members=members, threshold=_two_thirds(members))
            if asked.risk(members=members, corrupt=most) <= PLANNED_SEAT_RISK:
                return members
    return largest


def _default_corrupt(asked: _Asked, *, members: int, threshold: int | None) -> int:
    worst = max(1, asked.worst(members))
    most = withstood(members=members, threshold=threshold or _two_thirds(members))
    if not max(1, asked.corrupt_witnesses) <= most < worst or members > asked.witnesses + asked.cohort:
        return worst
    return most if asked.risk(members=members, corrupt=most) <= PLANNED_SEAT_RISK else worst
