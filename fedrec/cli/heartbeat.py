"""Lines for a stage that goes on for long, where there is no terminal to draw a bar on."""

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
"""So long nothing was printed, and the stage that is under way has a line."""
_LOOK_SECONDS = 0.5


class Heartbeat:
    """Inside its ``with``, prints the stage under way whenever no line was printed for a while.

    Args:
        print_line: prints a line; called from a thread of its own.
        seconds: how long it keeps silent.

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
        """Take note of a stage, and print the line that it brings, if any."""
        with self._mutex:
            if self._stage is None or self._stage.name != stage.name:
                self._begun = time.monotonic()
            self._stage = stage
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
                # Whoever read these lines may have gone; the work goes on.
                with suppress(OSError):
                    self._print(_line(self._stage, seconds=now - self._begun))


def _line(stage: Stage, *, seconds: float) -> str:
    counted = f"{stage.done} of {stage.total}, " if stage.total > 1 else ""
    return f"{stage.name}: {counted}{number_format.duration(seconds)} so far"
