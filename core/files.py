"""Files that survive a crash: a reader finds the old content or the new one, never half of either."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(
    path: Path, data: bytes, *, mode: int = 0o666, on_event: Callable[[str], None] = lambda event: None
) -> None:
    """Write a file so that a crash leaves the old content or the new, and it is durable on return.

    ``mode`` is that of a new file, less the umask; ``on_event`` is told each step, for tests that stop there.
    Raises ``OSError`` when the disk fails; the old content is still there.
    """
    scratch = path.with_name(path.name + ".tmp")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        on_event("opened")
        file.write(data)
        file.flush()
        on_event("written")
        os.fsync(file.fileno())
    on_event("synced")
    scratch.replace(path)
    on_event("replaced")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; ``FileExistsError`` if there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
