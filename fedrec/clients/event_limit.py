"""Limit how often a merchant's command is run: a server decides how many trainings and plans there are."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from fedrec.clients.event_hook import Event

_log = logging.getLogger(__name__)

MOST_AN_HOUR: Final = 6
"""Events of one kind that are passed on in an hour."""
_HOUR: Final = 3600.0


@dataclass
class _Kind:
    passed: deque[float] = field(default_factory=deque)
    held: Event | None = None
    left_out: int = 0


class EventLimit:
    """Passes on a few events of a kind in an hour; the latest of the others follows as soon as there is room.

    Events of one name are of two kinds: about a plan, which a server chooses, and about none.

    Args:
        emit: gets the events that are passed on.
        clock: returns seconds that only increase.
    """

    def __init__(self, emit: Callable[[Event], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit, self._clock = emit, clock
        self._kinds: dict[tuple[str, bool], _Kind] = {}

    def pass_on(self, event: Event) -> None:
        """Pass an event on, now if there is room."""
        kind = self._kinds.setdefault((event.event, bool(event.training_id)), _Kind())
        self._follow(kind)
        if self._room(kind):
            self._pass(kind, event)
            return
        if kind.held is None:
            _log.warning(
                "'on_event': more than %d events %s in an hour: the latest follows later, with the number of "
                "those left out",
                MOST_AN_HOUR,
                event.event,
            )
        else:
            kind.left_out += 1
        kind.held = event

    def pass_on_held(self) -> None:
        """Pass on the events that waited and have room now."""
        for kind in self._kinds.values():
            self._follow(kind)

    def _follow(self, kind: _Kind) -> None:
        if kind.held is not None and self._room(kind):
            held, left_out = kind.held, kind.left_out
            kind.held, kind.left_out = None, 0
            self._pass(kind, replace(held, left_out=left_out))

    def _room(self, kind: _Kind) -> bool:
        while kind.passed and kind.passed[0] <= self._clock() - _HOUR:
            kind.passed.popleft()
        return len(kind.passed) < MOST_AN_HOUR

    def _pass(self, kind: _Kind, event: Event) -> None:
        kind.passed.append(self._clock())
        self._emit(event)
