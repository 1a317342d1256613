"""What the server's process does so that the memory of large updates goes back to the system."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_MAPPED_FROM = 2**20


def give_memory_back() -> None:
    """Have glibc map blocks of a megabyte and more one by one, so that they are returned when they are freed.

    It would otherwise raise that limit by itself after the first large block, and keep what an update's
    pieces took, in as many places as there are threads. Another C library has no such setting, and nothing
    is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
