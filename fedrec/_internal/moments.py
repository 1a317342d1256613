"""Write times: for files as text of ISO 8601, for people as date and time of day, or how long ago it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload

from fedrec._internal import number_format

MOMENT_SECONDS = 2.0
"""What is no longer ago than this was just now."""


@overload
def iso_text(at: datetime) -> str: ...


@overload
def iso_text(at: datetime | None) -> str | None: ...


def iso_text(at: datetime | None) -> str | None:
    """Return a time as text of ISO 8601, to the second, as files and messages hold it; None for None."""
    return None if at is None else at.isoformat(timespec="seconds")


def now_text() -> str:
    """Return the present time in UTC, as :func:`iso_text` writes it."""
    return iso_text(datetime.now(UTC))


def moment(at: str | None) -> str:
    """Return a time, given as text of ISO 8601, as a date and time of day in UTC."""
    if at is None:
        return number_format.MISSING
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M:%S} UTC"


def seconds_between(earlier: str, later: str) -> float:
    """Return the seconds from one time to another; 0 where the clock went back.

    Args:
        earlier: the first time, as text of ISO 8601.
        later: the second time.

    Returns:
        Seconds.
    """
    passed = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    return max(0.0, passed.total_seconds())


def ago(at: str, *, now: str) -> str:
    """Return how long ago something was, and when.

    Args:
        at: when it was, as text of ISO 8601.
        now: the present time.

    Returns:
        A text as in "3 min 05 s ago (2026-01-31 09:00:00 UTC)"; "just now" within two seconds.
    """
    seconds = seconds_between(at, now)
    if seconds < MOMENT_SECONDS:
        return "just now"
    return f"{number_format.duration(round(seconds))} ago ({moment(at)})"
