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
    """When somebody is asked again, and how long the pause after that is; seconds."""

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
        self._pauses[key] = _Pause(due=time.monotonic() + pause, next=min(_LONGEST_SECONDS, 2 * pause))

    def keep(self, present: Collection[Key]) -> None:
        """Forget the pauses of all others: whoever comes back is asked at once."""
        self._pauses = {key: pause for key, pause in self._pauses.items() if key in present}
