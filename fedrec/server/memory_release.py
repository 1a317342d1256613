"""Return the memory of large updates to the operating system."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_MAPPED_FROM = 2**20


def give_memory_back() -> None:
    """Have glibc map each block of a megabyte or more by itself, so that freed blocks return to the system.

    By default glibc raises this threshold after the first large block that is freed, and keeps what the parts
    of an update took, once for each thread. Other C libraries have no such setting; nothing is done there.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
