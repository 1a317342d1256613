"""Decide when a training that lacked merchants is tried again: later each time, since each try costs CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FIRST_SECONDS: Final = 5.0
LONGEST_SECONDS: Final = 60.0
"""A merchant that has changed its policy is asked after at most so long."""

Connections = frozenset[tuple[str, float | None]]
"""Who is connected, and since when."""


@dataclass(frozen=True)
class _Attempt:
    connections: Connections
    seconds: float
    next_at: float


class Retries:
    """The attempts at trainings that wait for merchants, by the trainings' numbers.

    Args:
        clock: returns seconds that only increase.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, _Attempt] = {}

    def due(self, number: str, *, connections: Connections) -> bool:
        """Tell whether a training is tried now: its pause is over, or somebody has come or gone.

        Args:
            number: the training.
            connections: who is connected now.

        Returns:
            Whether it is.

        """
        last = self._failed.get(number)
        return last is None or self._clock() >= last.next_at or connections != last.connections

    def failed(self, number: str, *, connections: Connections) -> float:
        """Record an attempt for which too few merchants joined.

        Args:
            number: the training.
            connections: who was connected as it began.

        Returns:
            The seconds until the next one, twice as many each time among the same connections.

        """
        last = self._failed.get(number)
        again = last is not None and last.connections == connections
        seconds = min(LONGEST_SECONDS, 2 * last.seconds) if last is not None and again else FIRST_SECONDS
        self._failed[number] = _Attempt(connections, seconds, self._clock() + seconds)
        return seconds

    def succeeded(self, number: str) -> None:
        """Forget the attempts at a training that has begun or ended."""
        self._failed.pop(number, None)
