"""What only the server's process knows, kept in a file for ``fedrec server status``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from fedrec._internal.files import write_atomically

LIVE_FILE: Final = "live.json"
FRESH_SECONDS: Final = 30.0
"""A file that is older was left by a process that ended without a word."""
WRITE_SECONDS: Final = 10.0
"""How often the file is written where nothing has changed but when merchants were last heard of."""
STARTING_SECONDS: Final = 120.0
"""A process that hasn't said more for longer ended while it was loading."""
_MOST_BYTES = 2**24


class _Live(BaseModel):
    model_config = ConfigDict(frozen=True)


class Connection(_Live):
    """A merchant's connection.

    Attributes:
        connected: whether it is connected.
        since: since when it is, or isn't.
        last_seen: when it was last heard of.
        round_trip_seconds: how long a packet to it and back takes.
        reply_seconds: how long its last reply took, in the training that is run.
    """

    connected: bool = False
    since: datetime | None = None
    last_seen: datetime | None = None
    round_trip_seconds: float | None = None
    reply_seconds: float | None = None


class AwaitedReplies(_Live):
    """Replies that the server waits for: what they are, from whom, and since when."""

    what: str
    merchants: tuple[str, ...]
    since: datetime


@dataclass(frozen=True)
class TurnedAway:
    """A request that the public listener refused."""

    time: str
    address: str
    path: str


class LiveState(_Live):
    """The state of a server's process.

    Attributes:
        time: when this was written.
        started: when the process started.
        running: False once it has stopped in good order.
        starting: the process is still loading, and knows nothing of its merchants.
        connections: the merchants' connections, by name.
        training: number of the training that is run, or was run last.
        in_flight: the round that is under way.
        awaited: the replies that it waits for.
        noted: notes on merchants that are late or left out, by name.
        turned_away: how many requests the public listener has refused.
        last_turned_away: the last of them.
    """

    time: datetime
    started: datetime
    running: bool = True
    starting: bool = False
    connections: dict[str, Connection] = Field(default_factory=dict)
    training: str | None = None
    in_flight: int | None = None
    awaited: AwaitedReplies | None = None
    noted: dict[str, str] = Field(default_factory=dict)
    turned_away: int = 0
    last_turned_away: tuple[TurnedAway, ...] = ()

    @property
    def is_fresh(self) -> bool:
        """Whether the process that wrote it still runs, as far as its age tells."""
        return self.running and self._age < FRESH_SECONDS

    @property
    def is_starting(self) -> bool:
        """Whether the process that wrote it is still loading, as far as its age tells."""
        return self.running and self.starting and self._age < STARTING_SECONDS

    @property
    def _age(self) -> float:
        return abs((datetime.now(UTC) - self.time).total_seconds())

    def same_but_for_times(self, other: LiveState | None) -> bool:
        """Test whether another state differs in nothing but how recent it is.

        Args:
            other: the other state, if any.

        Returns:
            Whether writing this one would tell a reader nothing new.
        """
        return other is not None and self._lasting() == other._lasting()

    def _lasting(self) -> LiveState:
        plain = {
            name: found.model_copy(
                update={"last_seen": None, "round_trip_seconds": None, "reply_seconds": None}
            )
            for name, found in self.connections.items()
        }
        return self.model_copy(update={"time": self.started, "connections": plain})

    def write(self, folder: Path) -> None:
        """Write the state into the server's folder, for its owner alone."""
        write_atomically(folder / LIVE_FILE, self.model_dump_json().encode(), mode=0o600)


def read_live(folder: Path) -> LiveState | None:
    """Read what the server's process last wrote; None where there is nothing that can be used."""
    try:
        with (folder / LIVE_FILE).open("rb") as file:
            return LiveState.model_validate_json(file.read(_MOST_BYTES))
    except (OSError, ValueError):
        # A status is shown all the same: the files of the trainings say the rest.
        return None


def announce_start(folder: Path) -> None:
    """Write into a server's folder that its process is loading; a server that runs there is left alone.

    Args:
        folder: the server's folder.
    """
    earlier, now = read_live(folder), datetime.now(UTC)
    if earlier is not None and earlier.is_fresh:
        return
    # When merchants were last heard of is kept.
    kept = {} if earlier is None else earlier.connections
    LiveState(time=now, started=now, starting=True, connections=kept).write(folder)
