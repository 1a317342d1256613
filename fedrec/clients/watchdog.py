"""The watchdog of a merchant's daemon."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading

_log = logging.getLogger(__name__)

HUNG_EXIT = 75
_LOCKED_SECONDS = 2.0
"""How long after the log's line the process is ended from outside the interpreter."""
_STDERR = 2


class Watchdog:
    """Ends the process when a step hangs: Flower would wait for it for ever, and so would the cohort.

    A step that hangs in Python, or lets other threads run, ends it with ``HUNG_EXIT`` and a line in the log.
    Native code that keeps the interpreter's lock lets no thread of Python's do that: then faulthandler, whose
    thread needs no lock, writes to stderr where the step hangs and ends the process with 1.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: threading.Timer | None = None

    def __enter__(self) -> None:
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()
        faulthandler.dump_traceback_later(self._seconds + _LOCKED_SECONDS, exit=True, file=_STDERR)

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        _log.critical("a step took more than %.0f s; the process ends, to be started again", self._seconds)
        logging.shutdown()
        os._exit(HUNG_EXIT)
