"""Measure how far this machine's clock is off the server's, and compare it with what Flower tolerates.

Flower signs the time of a request and answers 401 if it differs too much from the server's; the answer
doesn't name the reason.
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
"""Most seconds that a merchant's clock may be ahead of or behind the server's."""

_PROBE_SECONDS = 10.0


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
    """Describe the fault of a clock that is ``ahead`` seconds ahead; None if Flower tolerates it."""
    if ahead is None or -MOST_BEHIND <= ahead <= MOST_AHEAD:
        return None
    where = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is about {abs(ahead):.0f} s {where} the server's; at most {MOST_AHEAD:.0f} s "
        f"ahead or {MOST_BEHIND:.0f} s behind are accepted: set the clock"
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
        context = ssl.create_default_context(cafile=str(ca))
        # The time is in the headers; the body, which may be of any size, is not read.
        with (
            httpx.Client(verify=context, timeout=_PROBE_SECONDS) as client,
            client.stream("GET", f"https://{address}/health") as response,
        ):
            return seconds_ahead(response)
    except (httpx.HTTPError, OSError):
        return None
