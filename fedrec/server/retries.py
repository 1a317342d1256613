"""Decide when a training that lacked merchants is tried again: later each time, since each try costs CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FIRST_SECONDS: Final = 5.0
"""No training is tried twice within so long, however often merchants connect and leave."""
LONGEST_SECONDS: Final = 60.0
"""A merchant that has changed its policy is asked after at most so long."""

Names = frozenset[str]
"""Who is connected."""


@dataclass(frozen=True)
class _Attempt:
    names: Names
    seconds: float
    at: float


class Retries:
    """The attempts at trainings that wait for merchants, by the trainings' numbers.

    Args:
        clock: returns seconds that only increase.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, _Attempt] = {}

    def due(self, number: str, *, names: Names) -> bool:
        """Tell whether a training is tried now: its pause is over, or somebody new has come.

        Args:
            number: the training.
            names: who is connected now.

        Returns:
            Whether it is.
        """
        last = self._failed.get(number)
        if last is None:
            return True
        pause = FIRST_SECONDS if names - last.names else last.seconds
        return self._clock() >= last.at + pause

    def failed(self, number: str, *, names: Names) -> float:
        """Record an attempt for which too few merchants joined.

        Args:
            number: the training.
            names: who was connected as it began.

        Returns:
            The seconds until the next one if nobody new comes, twice as many each time.
        """
        last = self._failed.get(number)
        if last is None or names - last.names:
            seconds = FIRST_SECONDS
        else:
            seconds = min(LONGEST_SECONDS, 2 * last.seconds)
        self._failed[number] = _Attempt(names, seconds, self._clock())
        return seconds

    def succeeded(self, number: str) -> None:
        """Forget the attempts at a training that has begun or ended."""
        self._failed.pop(number, None)
