"""Limits of CPU time that mean the same on a slow machine as on a fast one."""

from __future__ import annotations

import time

import numpy as np

USUAL_SECONDS = 0.1
"""CPU time of :func:`work_seconds` on the machine for which the tests' limits were written down."""


def is_within(spent: float, *, limit: float) -> bool:
    """Tell whether so much CPU time was spent as that machine may take for it.

    Args:
        spent: seconds of CPU time.
        limit: the most that it may be there; a slower machine may take as much more as for other work.

    Returns:
        Whether it was.
    """
    return spent < limit or spent < limit * min(work_seconds() for _ in range(3)) / USUAL_SECONDS


def work_seconds() -> float:
    """Do some arithmetic, in arrays and in Python; returns its CPU time."""
    started = time.process_time()
    values = np.random.default_rng(1).random(2**18)
    for _ in range(8):
        values = np.fft.irfft(np.fft.rfft(values))
    total = 0
    for number in range(300_000):
        total += number & 7
    return time.process_time() - started
