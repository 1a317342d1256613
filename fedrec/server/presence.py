"""Keep which merchants are connected, since when, and when each was last heard of."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedrec.flower.connection_errors import HEARTBEAT_SECONDS

AWAY_SECONDS = 2 * HEARTBEAT_SECONDS
"""Seconds of silence after which a merchant counts as gone, at least: as Flower itself decides."""


@dataclass(frozen=True)
class Seen:
    """What is known of a merchant's connection; times are in seconds since 1970.

    Attributes:
        connected: whether it is connected.
        since: since when it is, or isn't; None if it wasn't seen by this process.
        last: when it was last heard of.
        round_trip: seconds that a packet to it and back takes; None where the system doesn't measure it.
    """

    connected: bool
    since: float | None
    last: float
    round_trip: float | None = None


@dataclass
class _Kept:
    """A merchant's connection; ``last`` is by the clock that never goes back."""

    connected: bool
    since: float | None
    last: float
    round_trip: float | None = None
    told: bool = False


class Presence:
    """The connections of all merchants, by name. Safe to use from several threads.

    Args:
        now: a clock that never goes back, in seconds.
        wall: the time in seconds since 1970, to show moments of ``now`` by.
        away_seconds: seconds of silence after which a merchant counts as gone.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        away_seconds: Callable[[], float] = lambda: AWAY_SECONDS,
    ) -> None:
        self._now, self._wall, self._away_seconds = now, wall, away_seconds
        self._mutex = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def seen(self, name: str, *, leaves: bool = False, round_trip: float | None = None) -> None:
        """Record a request of a merchant.

        Args:
            name: the merchant.
            leaves: whether it says that it disconnects.
            round_trip: seconds that a packet to it and back takes.
        """
        now = self._now()
        with self._mutex:
            kept = self._kept.setdefault(name, _Kept(connected=False, since=None, last=now))
            if kept.connected is leaves:
                kept.since = self._wall()
            kept.connected, kept.last = not leaves, now
            if round_trip is not None:
                kept.round_trip = round_trip

    def restore(self, last_seen: Mapping[str, float]) -> None:
        """Take over when merchants were last heard of, in seconds since 1970, from an earlier process."""
        now, wall = self._now(), self._wall()
        with self._mutex:
            for name, moment in last_seen.items():
                last = now - max(0.0, wall - moment)
                self._kept.setdefault(name, _Kept(connected=False, since=None, last=last))

    def changes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return who has come and who has gone since the last call, sorted by name."""
        now, away = self._now(), self._away_seconds()
        with self._mutex:
            for kept in self._kept.values():
                if kept.connected and now - kept.last > away:
                    kept.connected, kept.since = False, self._wall()
            changed = [
                (name, kept) for name, kept in sorted(self._kept.items()) if kept.told != kept.connected
            ]
            for _, kept in changed:
                kept.told = kept.connected
            came = tuple(name for name, kept in changed if kept.connected)
            return came, tuple(name for name, kept in changed if not kept.connected)

    def of(self, name: str) -> Seen | None:
        """Return what is known of a merchant's connection, None if it was never heard of."""
        offset = self._wall() - self._now()
        with self._mutex:
            kept = self._kept.get(name)
            if kept is None:
                return None
            here = kept.connected and self._now() - kept.last <= self._away_seconds()
            return Seen(
                connected=here,
                since=kept.since,
                last=kept.last + offset,
                round_trip=kept.round_trip,
            )

    def names(self) -> frozenset[str]:
        """Return who is connected."""
        with self._mutex:
            return frozenset(name for name, kept in self._kept.items() if kept.connected)

    def connected(self) -> int:
        """Return how many merchants are connected, as :meth:`changes` last found."""
        with self._mutex:
            return sum(kept.told for kept in self._kept.values())
