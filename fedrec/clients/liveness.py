"""Read whether a merchant's or a witness's daemon runs, what it does, and its connection."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.clients.activity import read_activity
from fedrec.clients.party_home import PartyHome
from fedrec.errors import ConnectionFault


@dataclass(frozen=True)
class Liveness:
    """The parts of a status that change while nothing is charged.

    Attributes:
        running: whether the daemon runs.
        started: since when it runs; None if it doesn't.
        doing: what it is doing, as :class:`fedrec.clients.activity.Activity` has it; None if it doesn't run.
        doing_text: the same in words.
        connected: whether it is connected to the server.
        connection_at: time of the last change of the connection; None if there was none.
        connection_reason: why there is no connection.
        connection_fault: the same for programs; None for what has no name.
    """

    running: bool
    started: str | None
    doing: dict[str, str | int] | None
    doing_text: str
    connected: bool
    connection_at: str | None
    connection_reason: str
    connection_fault: ConnectionFault | None


def liveness(home: PartyHome) -> Liveness:
    """Read whether a party's daemon runs, what it does, and its connection."""
    activity, last = read_activity(home.folder), home.connection()
    starting = activity is not None and activity.is_starting
    running = starting or home.in_use
    activity = activity if running else None
    return Liveness(
        running=running,
        started=None if activity is None else activity.started,
        doing=None if activity is None else activity.model_dump(),
        doing_text="" if activity is None else activity.text,
        connected=running and not starting and last is not None and last.connected,
        # A daemon that was killed has noted no end: when that was isn't known.
        connection_at=None if last is None or (last.connected and not running) else last.at,
        connection_reason="" if last is None or starting else last.reason,
        connection_fault=None if last is None or starting else last.fault,
    )
