"""Decide when somebody who hasn't answered is asked again: after pauses that grow."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_FIRST_SECONDS, _LONGEST_SECONDS = 10.0, 600.0

Key = TypeVar("Key", bound=Hashable)


@dataclass
class _Pause:
    """When somebody was asked, when it is asked again, and how long the pause after that is; seconds."""

    asked: float
    due: float
    next: float


@dataclass
class Pauses(Generic[Key]):
    """The pauses of those that were asked: 10 s after the first request, then twice as long up to 10 minutes.

    Attributes:
        first: the first pause in seconds.
    """

    first: float = _FIRST_SECONDS
    _pauses: dict[Key, _Pause] = field(default_factory=dict)

    def is_due(self, key: Key) -> bool:
        """Return whether somebody was never asked, or its pause is over."""
        return key not in self._pauses or self._pauses[key].due <= time.monotonic()

    def asked(self, key: Key) -> None:
        """Record that somebody is asked now."""
        pause = self._pauses[key].next if key in self._pauses else self.first
        now = time.monotonic()
        self._pauses[key] = _Pause(asked=now, due=now + pause, next=min(_LONGEST_SECONDS, 2 * pause))

    def keep(self, present: Collection[Key]) -> None:
        """Shorten the pauses of all others to the first one: whoever comes back after it is asked at once.

        Nobody is asked more often by coming and going.
        """
        now = time.monotonic()
        for key in [key for key in self._pauses if key not in present]:
            asked = self._pauses[key].asked
            if asked + self.first <= now:
                del self._pauses[key]
            else:
                self._pauses[key] = _Pause(asked=asked, due=asked + self.first, next=self.first)
