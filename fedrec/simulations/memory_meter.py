"""Measure the memory of a run: this process and all its descendants together."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil

_INTERVAL_SECONDS = 1.0


def tree_bytes() -> int:
    """Return the proportional set size of this process and all its descendants, in bytes.

    A page shared by k processes counts 1/k for each of them, so that the sum is what the machine holds.
    """
    total = 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


class MemoryMeter:
    """A context manager that measures :func:`tree_bytes` once a second, and keeps the peak.

    Peaks shorter than a second may be missed.
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
        while not self._done.wait(_INTERVAL_SECONDS):
            self.peak_bytes = max(self.peak_bytes, tree_bytes())
