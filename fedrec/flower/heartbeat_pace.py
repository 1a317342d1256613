"""Decide by the server's load how often merchants give a sign of life, and when they may connect."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from fedrec.flower.connection_errors import HEARTBEAT_SECONDS
from fedrec.flower.token_buckets import TokenBuckets

MOST_HEARTBEAT_SECONDS: Final = 50.0
"""Longest interval. Many proxies close a connection on which nothing was sent for a minute."""
HELD_PART: Final = 0.8
"""Part of the interval for which a request waits for a message; it is a sign of life itself."""
PACE_HEADER: Final = "x-fedrec-heartbeat-seconds"
"""Header of an answer, with the interval until the next sign of life."""
_SIGNS_A_SECOND: Final = 20.0
"""How many signs of life a second the server asks for at most, of all merchants together."""
_LATE_SECONDS: Final = 1.0
"""How late the server's event loop may be before merchants that connect are asked to come later."""
_LATE_PART: Final = 0.1
"""Part of the interval that the loop may be late, before the interval grows."""
_ENTRIES_WHEN_LATE: Final = (20.0, 10.0)
"""Merchants that connect while the loop is late: burst, and rate per second."""
_DECAY: Final = 0.95


class HeartbeatPace:
    """The interval between two signs of life of each merchant that is connected.

    It grows with their number and with how late the server's event loop is. Each merchant counts as connected
    for two of the intervals that it was told last.

    Args:
        now: a clock that never goes back, in seconds.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._told: dict[int, float] = {}
        self._late = 0.0
        self._entries = TokenBuckets(_ENTRIES_WHEN_LATE, now=now)
        self._next_entry = 0.0
        self._slowest, self._slowest_until = HEARTBEAT_SECONDS, 0.0

    def note_lateness(self, seconds: float) -> None:
        """Record how late the event loop is; call it ten times a second."""
        self._late = max(seconds, self._late * _DECAY)

    def tell(self, node: int) -> float:
        """Return the interval that a node is told now; it counts as connected from now on."""
        seconds = max(HEARTBEAT_SECONDS, len(self._told) / _SIGNS_A_SECOND, self._late / _LATE_PART)
        self._told[node] = round(min(MOST_HEARTBEAT_SECONDS, seconds), 1)
        return self._told[node]

    def told(self, node: int) -> float:
        """Return the interval that a node was told last."""
        return self._told.get(node, HEARTBEAT_SECONDS)

    def forget(self, node: int) -> None:
        """Note that a node has disconnected."""
        self._told.pop(node, None)

    def slowest(self) -> float:
        """Return the longest interval that a connected node was told, to a second."""
        now = self._now()
        if now >= self._slowest_until:
            self._slowest = max([HEARTBEAT_SECONDS, *self._told.copy().values()])
            self._slowest_until = now + 1.0
        return self._slowest

    def seconds_until_entry(self) -> int:
        """Return in how many seconds a merchant that connects should come again; 0 if it may come in.

        While the event loop is late, merchants come in at a fixed rate, each of the others gets a time of its
        own, so that they don't all come again at once.
        """
        now = self._now()
        if self._late < _LATE_SECONDS or self._entries.take(None):
            return 0
        self._next_entry = max(now, self._next_entry) + 1.0 / _ENTRIES_WHEN_LATE[1]
        return math.ceil(self._next_entry - now)
