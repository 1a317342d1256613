"""Measure the memory of a run: this process and all its descendants together."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

import psutil

_TELLS_SHARES = sys.platform == "linux"
"""Whether the system tells how many processes share a page."""
_SHORTEST_PAUSE = 1.0
_MOST_OF_THE_TIME = 0.01
"""Part of a processor that measuring may take: the kernel goes through all pages of all processes."""


def tree_bytes() -> int:
    """Return the memory of this process and all its descendants together, in bytes.

    On Linux it is the proportional set size: a page shared by k processes counts 1/k for each of them, so
    that the sum is what the machine holds. Other systems don't tell who shares a page: there it counts once
    for each, and the sum is at most too large.
    """
    total = 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            total += _bytes_of(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def _bytes_of(process: psutil.Process) -> int:
    return int(process.memory_full_info().pss if _TELLS_SHARES else process.memory_info().rss)


class MemoryMeter:
    """A context manager that measures :func:`tree_bytes` once a second, or less often, and keeps the peak.

    With many or large processes it measures less often. Peaks shorter than the pause may be missed.
    """

    def __init__(self) -> None:
        self.peak_bytes = tree_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fedrec-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = _SHORTEST_PAUSE
        while not self._done.wait(pause):
            started = time.thread_time()
            self.peak_bytes = max(self.peak_bytes, tree_bytes())
            pause = max(_SHORTEST_PAUSE, (time.thread_time() - started) / _MOST_OF_THE_TIME)
