"""Locks that keep a file to one process until that process ends, however it ends: POSIX's ``flock``."""

from __future__ import annotations

import os
from pathlib import Path

from fedrec._internal.systems import require_supported_system


class LockedElsewhereError(Exception):
    """Another process holds the lock."""


def take_lock(path: Path) -> int:
    """Lock ``path``, made with mode 0600 if need be; return the descriptor, whose closing ends the lock.

    Raises:
        OSError: the file can't be opened or made.
        LockedElsewhereError: another process holds it.
        UnsupportedSystemError: this system has no such locks.

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
    """Say whether a process holds the lock; it is left as it was, and a file that isn't there is free.

    Raises:
        UnsupportedSystemError: this system has no such locks.

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
    # Windows doesn't have it: imported above, it would break every import there before a word is said.
    import fcntl

    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
