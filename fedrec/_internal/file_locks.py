"""Lock files for one process with POSIX ``flock``; the lock ends with the process, even when it is killed."""

from __future__ import annotations

import os
from pathlib import Path

from fedrec._internal.systems import require_supported_system


class LockedElsewhereError(Exception):
    """Another process holds the lock."""


def take_lock(path: Path) -> int:
    """Lock ``path``; create the file with mode 0600 if it doesn't exist.

    Returns:
        The file descriptor. Closing it releases the lock.

    Raises:
        OSError: the file can't be opened or created.
        LockedElsewhereError: another process holds the lock.
        UnsupportedSystemError: this system has no ``flock``.
    """
    require_supported_system()
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _flock(lock, exclusive=True)
    except OSError as error:
        os.close(lock)
        raise LockedElsewhereError from error
    return lock


def is_locked(path: Path) -> bool:
    """Test whether a process holds the lock, without changing it.

    Returns:
        True if another process holds it. A missing file is not locked.

    Raises:
        UnsupportedSystemError: this system has no ``flock``.
    """
    require_supported_system()
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        _flock(lock, exclusive=False)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _flock(descriptor: int, *, exclusive: bool) -> None:
    # Windows has no fcntl: an import at module level would fail there before the error message is printed.
    import fcntl

    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
