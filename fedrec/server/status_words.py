"""Word what a server waits for, for its page and for the terminal."""

from __future__ import annotations

from fedrec._internal import number_format
from fedrec._internal.moments import MOMENT_SECONDS, moment, seconds_between
from fedrec._internal.text import listed
from fedrec.server.status_types import TrainingStatus, WaitingFor


def waiting_text(waiting: WaitingFor, *, now: str) -> str:
    """Say what a training waits for, from whom, and since when.

    Args:
        waiting: ``waiting_for`` of the status.
        now: the present time.

    Returns:
        One sentence without a full stop.
    """
    who = f": {listed(waiting.merchants)}" if waiting.merchants else ""
    since = waiting.since
    lasted = ""
    if since is not None and seconds_between(since, now) >= MOMENT_SECONDS:
        lasted = f", since {moment(since)}, for {number_format.duration(round(seconds_between(since, now)))}"
    return f"waits for {waiting.what}{who}{lasted}"


def interrupted_text(training: TrainingStatus) -> str:
    """Say which rounds were begun and never finished since the last finished one; empty for none."""
    lost = training.interrupted
    if not lost:
        return ""
    if len(lost) == 1:
        return f"round {lost[0]} was interrupted, and may be charged"
    return f"rounds {lost[0]} to {lost[-1]} were interrupted, and may be charged"
