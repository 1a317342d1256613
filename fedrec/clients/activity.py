"""Tell what a party's daemon is doing: in its log, and in a file that status and page read."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import psutil
from pydantic import BaseModel, ConfigDict

from fedrec._internal.moments import now_text

_log = logging.getLogger(__name__)

Doing = Literal["loading", "photos", "features", "connecting", "waiting", "answering"]
WORDS: Final[Mapping[Doing, str]] = {
    "loading": "loading libraries",
    "photos": "reading photos",
    "features": "extracting features of photos",
    "connecting": "connecting to the server",
    "waiting": "waiting for the server's next request",
    "answering": "answering a request of the server",
}
_LOGGED: Final = ("photos", "features", "connecting")
_FILE: Final = "activity.json"
_WRITE_SECONDS, _LOG_SECONDS = 1.0, 15.0


class Activity(BaseModel):
    """What a daemon is doing.

    Attributes:
        started: when the process started, UTC.
        pid: the process.
        doing: what it does.
        since: since when, UTC.
        done: finished steps.
        total: all steps; 0 where they aren't counted.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    started: str
    pid: int = 0
    doing: Doing
    since: str
    done: int = 0
    total: int = 0

    @property
    def is_starting(self) -> bool:
        """Whether a process is loading libraries: it doesn't hold the ledger's lock yet."""
        if self.doing != "loading":
            return False
        try:
            created = psutil.Process(self.pid).create_time()
        except (psutil.Error, ValueError):
            return False
        # A later process may have got the number of one that ended.
        return created <= datetime.fromisoformat(self.started).timestamp() + 1

    @property
    def text(self) -> str:
        """What it does, in words."""
        steps = f", {self.done:,} of {self.total:,}" if self.total else ""
        return WORDS[self.doing] + steps


class ActivityLog:
    """Tells what this process is doing. A failure to write is ignored: it is information only.

    Args:
        folder: the party's folder.
        clock: seconds that only go up; tests pass their own.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = folder / _FILE, clock
        self._started = now_text()
        self._last: Activity | None = None
        self._written = self._logged = -_LOG_SECONDS

    def tell(self, doing: Doing, done: int = 0, total: int = 0) -> None:
        """Tell what is done now; equal calls and steps in quick succession cost nothing.

        Args:
            doing: what is done.
            done: finished steps.
            total: all steps.
        """
        last, now = self._last, self._clock()
        changed, since = True, now_text()
        if last is not None and last.doing == doing:
            changed, since = False, last.since
            if (last.done, last.total) == (done, total) or now < self._written + _WRITE_SECONDS:
                return
        self._last = Activity(
            started=self._started, pid=os.getpid(), doing=doing, since=since, done=done, total=total
        )
        self._written = now
        if doing in _LOGGED and (changed or now >= self._logged + _LOG_SECONDS):
            self._logged = now
            _log.info("%s", self._last.text)
        self._write(self._last)

    def _write(self, activity: Activity) -> None:
        # Not synced: what a crash loses here was of use only to the process that is gone.
        scratch = self._path.with_name(f"{_FILE}.tmp")
        with suppress(OSError):
            handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(activity.model_dump_json().encode())
            scratch.replace(self._path)


def read_activity(folder: Path) -> Activity | None:
    """Return what a daemon told last, whether it still runs or not; None if there is nothing to read."""
    try:
        return Activity.model_validate_json((folder / _FILE).read_bytes())
    except (OSError, ValueError):
        return None
