"""Decide how long a round waits for slow merchants, and for how many rounds a late one isn't asked."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic import NonNegativeInt

from fedrec.config import PATIENCE

_FLOOR_SECONDS = 2.0
"""No phase ends earlier: a merchant's connection may just have been lost and made again."""
_RECENT = 9
_QUORUM = 0.75
_LATE_IN_A_ROW = 2
_FIRST_REST, _LONGEST_REST = 4, 32


class GracePeriod:
    """Decide when a phase of a round that has enough replies goes on without the others.

    The measure is the time until most had replied: three in four of those asked, or as many as the round
    needs if those are more. The phase ends after a multiple of its median over the last rounds. Fewer than a
    quarter of the merchants can't stretch it, however late they reply.

    Args:
        multiple: of the median.
        floor: in seconds; no phase ends earlier.
    """

    def __init__(self, *, multiple: float = PATIENCE, floor: float = _FLOOR_SECONDS) -> None:
        self._multiple, self._floor = multiple, floor
        self._recent: deque[float] = deque(maxlen=_RECENT)

    @contextmanager
    def phase(self, *, asked: int, needed: int) -> Iterator[Phase]:
        """Follow one phase; its time counts for the phases to come.

        Args:
            asked: how many merchants are asked.
            needed: how many replies are enough.

        Yields:
            The phase.
        """
        phase = Phase(self, quorum=max(needed, math.ceil(_QUORUM * asked)), needed=needed)
        try:
            yield phase
        finally:
            reached = phase.reached
            if reached is not None:
                self._recent.append(reached)

    def end(self, so_far: float) -> float:
        """Return the second at which a phase ends that had its quorum (or minimum) at ``so_far`` seconds."""
        usual = statistics.median(self._recent) if self._recent else so_far
        return max(so_far, self._floor, self._multiple * usual)


@dataclass
class Phase:
    """One phase of a round, which decides by the valid replies when it ends."""

    grace: GracePeriod
    quorum: int
    needed: int
    reached: float | None = None
    _enough: float | None = None

    def end(self, replies: int, *, seconds: float) -> float | None:
        """Decide when the phase ends.

        Args:
            replies: how many valid replies have come.
            seconds: how long the phase has lasted.

        Returns:
            The second at which it ends, or None while there are too few replies.
        """
        if replies >= self.quorum and self.reached is None:
            self.reached = seconds
        if replies >= self.needed and self._enough is None:
            self._enough = seconds
        if self._enough is None:
            return None
        return self.grace.end(self._enough if self.reached is None else self.reached)


@contextmanager
def waiting(
    grace: GracePeriod | None, *, asked: int, needed: int
) -> Iterator[Callable[[int, float], float | None]]:
    """Follow one phase, with or without a grace period.

    Args:
        grace: the grace period; None waits for all replies.
        asked: how many merchants are asked.
        needed: how many replies are enough.

    Yields:
        A function of the number of valid replies and the seconds passed: the second at which the phase ends,
        or None.
    """
    if grace is None:
        yield lambda replies, seconds: None
        return
    with grace.phase(asked=asked, needed=needed) as phase:
        yield lambda replies, seconds: phase.end(replies, seconds=seconds)


@dataclass
class Lateness:
    """The merchants that were late: how often in a row, and the round from which each is asked again.

    One that is late twice in a row isn't asked, nor charged, for 4 rounds; if it is late again, for 8, and so
    on up to 32.
    """

    in_a_row: dict[str, NonNegativeInt] = field(default_factory=dict)
    until: dict[str, NonNegativeInt] = field(default_factory=dict)

    def resting(self, round_number: int) -> list[str]:
        """Return the merchants that a round doesn't ask, the one that rests longest first."""
        found = [name for name, until in self.until.items() if round_number < until]
        return sorted(found, key=lambda name: (-self.until[name], name))

    def note(self, round_number: int, *, late: Collection[str], replied: Collection[str]) -> None:
        """Record who replied in time in a round, and who didn't.

        Args:
            round_number: the round.
            late: merchants without a reply, where the round went on without them.
            replied: merchants that replied in time.
        """
        for name in replied:
            self.in_a_row.pop(name, None)
            self.until.pop(name, None)
        for name in late:
            self.in_a_row[name] = times = self.in_a_row.get(name, 0) + 1
            if times >= _LATE_IN_A_ROW:
                rest = min(_LONGEST_REST, _FIRST_REST << (times - _LATE_IN_A_ROW))
                self.until[name] = round_number + 1 + rest
