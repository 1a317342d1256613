"""How long a round waits for who is slow, and how long it does without who was late again and again."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fedrec.config import PATIENCE

_FLOOR_SECONDS = 2.0
"""A phase is never ended earlier: a daemon asks for messages each 1.5 s while it has nothing to do."""
_RECENT = 9
_QUORUM = 0.75
_LATE_IN_A_ROW = 2
_FIRST_REST, _LONGEST_REST = 4, 32


class Grace:
    """When a phase of a round, with enough replies, goes on without the others; seconds since it began.

    Its measure is when most had replied, three in four of those asked or as many as the round needs: the
    median over the last rounds. Fewer than a quarter can't stretch it, however late they reply.
    """

    def __init__(self, *, multiple: float = PATIENCE, floor: float = _FLOOR_SECONDS) -> None:
        self._multiple, self._floor = multiple, floor
        self._recent: deque[float] = deque(maxlen=_RECENT)

    @contextmanager
    def phase(self, *, asked: int, needed: int) -> Iterator[Phase]:
        """Follow one phase, of which ``needed`` replies are enough; it counts for those to come."""
        phase = Phase(self, quorum=max(needed, math.ceil(_QUORUM * asked)), needed=needed)
        try:
            yield phase
        finally:
            reached = phase.reached
            if reached is not None:
                self._recent.append(reached)

    def end(self, so_far: float) -> float:
        """Return when a phase whose quorum (or minimum) was reached at ``so_far`` seconds ends."""
        usual = statistics.median(self._recent) if self._recent else so_far
        return max(so_far, self._floor, self._multiple * usual)


@dataclass
class Phase:
    """One phase: told of replies that count, it says when to end."""

    grace: Grace
    quorum: int
    needed: int
    reached: float | None = None
    _enough: float | None = None

    def end(self, replies: int, *, seconds: float) -> float | None:
        """Return the second at which the phase ends after so many replies; None while they are too few."""
        if replies >= self.quorum and self.reached is None:
            self.reached = seconds
        if replies >= self.needed and self._enough is None:
            self._enough = seconds
        if self._enough is None:
            return None
        return self.grace.end(self._enough if self.reached is None else self.reached)


@contextmanager
def waiting(
    grace: Grace | None, *, asked: int, needed: int
) -> Iterator[Callable[[int, float], float | None]]:
    """Yield what says, after so many good replies and seconds, when a phase ends: never, without a grace."""
    if grace is None:
        yield lambda replies, seconds: None
        return
    with grace.phase(asked=asked, needed=needed) as phase:
        yield lambda replies, seconds: phase.end(replies, seconds=seconds)


@dataclass
class Lateness:
    """Merchants that were late: how often in a row, and the round from which each is asked again.

    Late twice running, one isn't asked, nor charged, for 4 rounds, and if it's late again then for 8, up to
    32.
    """

    in_a_row: dict[str, int] = field(default_factory=dict)
    until: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None) -> Lateness:
        """Return what :meth:`state` wrote."""
        return cls() if state is None else cls(in_a_row=dict(state["in_a_row"]), until=dict(state["until"]))

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {"in_a_row": self.in_a_row, "until": self.until}

    def resting(self, round_number: int) -> list[str]:
        """Return who isn't asked in a round, the one that rests longest first."""
        found = [name for name, until in self.until.items() if round_number < until]
        return sorted(found, key=lambda name: (-self.until[name], name))

    def note(self, round_number: int, *, late: Collection[str], replied: Collection[str]) -> None:
        """Note who replied in time in a round, and who didn't though the round went on without it."""
        for name in replied:
            self.in_a_row.pop(name, None)
            self.until.pop(name, None)
        for name in late:
            self.in_a_row[name] = times = self.in_a_row.get(name, 0) + 1
            if times >= _LATE_IN_A_ROW:
                rest = min(_LONGEST_REST, _FIRST_REST << (times - _LATE_IN_A_ROW))
                self.until[name] = round_number + 1 + rest
