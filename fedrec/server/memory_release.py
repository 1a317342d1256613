"""Return the memory of large updates to the operating system."""

from __future__ import annotations

from fedrec._internal.heap import set_heap_thresholds

_KEPT, _MAPPED_FROM = 2**22, 2**20


def give_memory_back() -> None:
    """Have glibc map each block of a megabyte or more by itself, so that freed blocks return to the system.

    By default glibc raises this threshold after the first large block that is freed, and keeps what the parts
    of an update took, once for each thread. Other C libraries have no such setting; nothing is done there.

    Setting this threshold also ends what raises the other one, above which the end of the heap is returned.
    That starts at 128 kB: numbers that are made in chunks would return their memory, and fetch it again page
    by page, for each chunk, which takes as long as sampling noise does. So 4 MB are kept.
    """
    set_heap_thresholds(mapped_from=_MAPPED_FROM, kept=_KEPT)
