"""Handle Ctrl-C during a run: it stops the work, but never the writing of the report."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self


class Interrupts:
    """A context manager in which SIGINT raises ``KeyboardInterrupt`` only within :meth:`allowed`.

    It raises once for each such block. Elsewhere SIGINT is ignored, since what is under way there is short.
    Outside the main thread, where Python delivers no signals, nothing changes.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._before: signal.Handlers | object = signal.SIG_DFL
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            # None means that the handler wasn't set from Python; it can't be restored.
            signal.signal(signal.SIGINT, self._before or signal.SIG_DFL)  # type: ignore[arg-type]

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let the first SIGINT end the block."""
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
