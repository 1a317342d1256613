"""Print lines at intervals during a long stage, for output without a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from fedrec._internal import number_format
from fedrec.observability.progress import Stage

LINE_SECONDS = 10.0
"""Seconds without output after which a line for the current stage is printed."""
_LOOK_SECONDS = 0.5


class Heartbeat:
    """Context manager that prints the current stage whenever no line was printed for a while.

    Args:
        print_line: function that prints a line; it is called from a separate thread too.
        seconds: seconds without output before a line is printed.
    """

    def __init__(self, print_line: Callable[[str], None], *, seconds: float = LINE_SECONDS) -> None:
        self._print, self._seconds = print_line, seconds
        self._mutex = threading.Lock()
        self._stage: Stage | None = None
        self._begun = self._printed = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fedrec-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, stage: Stage) -> None:
        """Set the current stage, and print the stage's own line if it has one."""
        with self._mutex:
            # A message is no stage that lasts.
            if stage.total and (self._stage is None or self._stage.name != stage.name):
                self._begun = time.monotonic()
            self._stage = stage if stage.total else self._stage
            if stage.plain:
                self._printed = time.monotonic()
                self._print(stage.plain)

    def _watch(self) -> None:
        while not self._over.wait(min(_LOOK_SECONDS, self._seconds / 4)):
            with self._mutex:
                now = time.monotonic()
                if self._stage is None or now - self._printed < self._seconds:
                    continue
                self._printed = now
                # The reader of these lines may be gone; the work continues.
                with suppress(OSError):
                    self._print(_line(self._stage, seconds=now - self._begun))


def _line(stage: Stage, *, seconds: float) -> str:
    counted = f"{stage.done} of {stage.total}, " if stage.total > 1 else ""
    return f"{stage.name}: {counted}{number_format.duration(seconds)} so far"
