"""End the merchant's daemon when a step hangs."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading

_log = logging.getLogger(__name__)

HUNG_EXIT = 75
_LOCKED_SECONDS = 2.0
"""Time after the log line until the process is ended from outside the interpreter."""
_STDERR = 2


class Watchdog:
    """Context manager that ends the process when a step hangs; otherwise Flower and the cohort would wait.

    If other threads can run, the process ends with exit code ``HUNG_EXIT`` and a line in the log. If native
    code holds the interpreter's lock, no Python thread can run. Then faulthandler, whose thread needs no
    lock, writes the stack to stderr and ends the process with exit code 1.

    Args:
        seconds: time limit of the step.
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
        _log.critical(
            "a step took more than %.0f s; the process ends, so that it is restarted", self._seconds
        )
        logging.shutdown()
        os._exit(HUNG_EXIT)
