"""Return the memory of large updates to the operating system."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT, _MAPPED_FROM = 2**22, 2**20


def give_memory_back() -> None:
    """Have glibc map each block of a megabyte or more by itself, so that freed blocks return to the system.

    By default glibc raises this threshold after the first large block that is freed, and keeps what the parts
    of an update took, once for each thread. Other C libraries have no such setting; nothing is done there.

    Setting this threshold also ends what raises the other one, above which the end of the heap is returned.
    That starts at 128 kB: numbers that are made in chunks would return their memory, and fetch it again page
    by page, for each chunk, which takes as long as sampling noise does. So 4 MB are kept.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
