"""Sign requests by the server's time, where this machine's clock is off.

A merchant signs the time of a request, and the server answers 401 if it differs too much from its own; the
answer doesn't name the reason. The server's window, which bounds how long a recorded request can be sent
again, stays as Flower has it: a merchant learns the server's time from that answer and signs that in place
of its own. Only the server that its authority vouches for can tell it a time, and only within limits.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from fedrec.errors import ConfigError
from fedrec.flower.http_client import http_client
from fedrec.flower.proxies import proxy_for

MOST_AHEAD = float(SYSTEM_TIME_TOLERANCE)
MOST_BEHIND = float(TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)
"""Most seconds that a signed time may be ahead of or behind the server's."""

MOST_CORRECTED = 900.0
"""Most seconds by which a signed time may differ from this machine's clock."""

_PROBE_SECONDS = 10.0
_UNAUTHORIZED = 401


class ServerClock:
    """This machine's clock, corrected to the server's time once the server has refused a request."""

    def __init__(self) -> None:
        self._correction = timedelta(0)

    def now(self) -> datetime:
        """Return the server's time, as far as it is known."""
        return datetime.now(UTC) + self._correction

    def follow(self, response: httpx.Response) -> bool:
        """Take over the server's time from an answer that may have refused the time of a request.

        Args:
            response: the answer.

        Returns:
            Whether the request is worth another attempt.
        """
        ahead = seconds_ahead(response)
        if response.status_code != _UNAUTHORIZED or ahead is None or abs(ahead) > MOST_CORRECTED:
            return False
        signed = ahead + self._correction.total_seconds()
        if -MOST_BEHIND <= signed <= MOST_AHEAD:
            return False
        self._correction = timedelta(seconds=-ahead)
        return True


def seconds_ahead(response: httpx.Response, *, now: datetime | None = None) -> float | None:
    """Compute how far this clock is ahead of the server's, to a second or two.

    Args:
        response: a response of the server.
        now: when the response came, with a time zone; the current time by default.

    Returns:
        Seconds, negative if this clock is behind; None if the response has no valid ``Date`` header.
    """
    try:
        told = parsedate_to_datetime(response.headers.get("date", ""))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    told = told if told.tzinfo is not None else told.replace(tzinfo=UTC)
    return ((now or datetime.now(UTC)) - told).total_seconds()


def clock_fault(ahead: float | None) -> str | None:
    """Describe the fault of a clock that is ``ahead`` seconds ahead; None if it can be made up for."""
    if ahead is None or abs(ahead) <= MOST_CORRECTED:
        return None
    where = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is about {abs(ahead):.0f} s {where} the server's; up to "
        f"{MOST_CORRECTED:.0f} s are made up for: set the clock"
    )


def ask_clock(address: str, *, ca: Path) -> float | None:
    """Ask a server for its time; this needs no key.

    Args:
        address: host:port of the server.
        ca: PEM file of the authority that issued the server's certificate.

    Returns:
        The result of :func:`seconds_ahead`; None also if the server can't be reached.
    """
    try:
        # The time is in the headers; the body, which may be of any size, is not read.
        with (
            http_client(ca=ca, proxy=proxy_for(address), seconds=_PROBE_SECONDS) as client,
            client.stream("GET", f"https://{address}/health") as response,
        ):
            return seconds_ahead(response)
    except (httpx.HTTPError, OSError, ConfigError, UnicodeError):
        return None
