"""How far this machine's clock is off the server's, and how far Flower lets it be.

Flower signs the time of a request and answers 401 where that isn't the server's; its answer doesn't say so.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

MOST_AHEAD = float(SYSTEM_TIME_TOLERANCE)
MOST_BEHIND = float(TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)
"""Seconds that a merchant's clock may be off the server's."""

_PROBE_SECONDS = 10.0


def seconds_ahead(response: httpx.Response, *, now: datetime | None = None) -> float | None:
    """Return this clock's lead over the server's (negative if behind), to a second or two; None if not told.

    ``now`` is when the response came, with a time zone; the present unless given.
    """
    try:
        told = parsedate_to_datetime(response.headers.get("date", ""))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    told = told if told.tzinfo is not None else told.replace(tzinfo=UTC)
    return ((now or datetime.now(UTC)) - told).total_seconds()


def clock_fault(ahead: float | None) -> str | None:
    """Return what is wrong with a clock that is so many seconds ahead, None if Flower takes it."""
    if ahead is None or -MOST_BEHIND <= ahead <= MOST_AHEAD:
        return None
    where = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is about {abs(ahead):.0f} s {where} the server's; at most {MOST_AHEAD:.0f} s "
        f"ahead or {MOST_BEHIND:.0f} s behind are taken: set the clock"
    )


def ask_clock(address: str, *, ca: Path) -> float | None:
    """Ask a server (host:port, under the authority in ``ca``) for its time, as :func:`seconds_ahead` says.

    Needs no key. None, too, when the server can't be reached.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca))
        # The time is in the headers: a body, of whatever size, isn't read.
        with (
            httpx.Client(verify=context, timeout=_PROBE_SECONDS) as client,
            client.stream("GET", f"https://{address}/health") as response,
        ):
            return seconds_ahead(response)
    except (httpx.HTTPError, OSError):
        return None
