"""How much memory this process may use: the machine's, or what a container or a service is limited to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

import psutil

_UNIFIED: Final = ("sys/fs/cgroup", "memory.max")
_LEGACY: Final = ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
"""Where control groups of version 2 and 1 are mounted, and the file that holds a group's limit."""


def memory_limit(*, root: Path = Path("/")) -> int:
    """Return the memory in bytes that this process may use at most.

    On Linux that is the smallest of the machine's memory and of the limits of the process's control group and
    of those above it, as a container engine or systemd's ``MemoryMax`` sets them. Elsewhere it is the
    machine's memory.

    Args:
        root: the file system's root, for tests.

    Returns:
        Bytes, at least 1.
    """
    return min([psutil.virtual_memory().total, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """Yield each limit that is set for the process's control groups, of either version."""
    lines: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    for line in lines:
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        mounted, name = _LEGACY if controllers else _UNIFIED
        # A container may see its group as the root, or be told a name of the host's that has no folder in it.
        below = PurePosixPath(group.strip("/"))
        for place in (below, *below.parents):
            if ".." in place.parts:
                continue
            with suppress(OSError, ValueError):
                limit = int((root / mounted / place / name).read_text("ascii"))
                if limit > 0:
                    yield limit
