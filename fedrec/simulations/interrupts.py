"""Handle Ctrl-C and SIGTERM during a run: they stop the work, but never the writing of the report."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

_STOPS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context manager in which a signal raises ``KeyboardInterrupt`` only within :meth:`allowed`.

    It raises once for each such block. Elsewhere a signal is ignored, since what is under way there is short.
    Outside the main thread, where Python delivers no signals, nothing changes.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._before: dict[signal.Signals, Any] = {}
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._main:
            self._before = {number: signal.signal(number, self._handle) for number in _STOPS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None means that the handler wasn't set from Python; it can't be restored.
            signal.signal(number, handler or signal.SIG_DFL)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let the first signal end the block."""
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._allowed:
            # A second SIGINT must not interrupt the clean-up: closing files, ending workers.
            self._allowed = False
            raise KeyboardInterrupt
