"""Set from which sizes the C library returns freed memory to the operating system."""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # malloc.h of glibc
_M_MMAP_THRESHOLD: Final = -3


def set_heap_thresholds(*, mapped_from: int, kept: int) -> None:
    """Set glibc's thresholds for the whole process; another C library has none, and nothing is done there.

    Args:
        mapped_from: bytes from which a block is mapped by itself, and returned as soon as it is freed.
        kept: bytes at most that stay at the end of a heap when they are free; each thread may have a heap.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, mapped_from)
    mallopt(_M_TRIM_THRESHOLD, kept)
