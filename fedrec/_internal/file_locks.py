"""Lock files for one process; the lock ends with the process, even when it is killed.

filelock takes the system's own lock of a file: ``flock`` on Linux and macOS, ``LockFileEx`` on Windows. A
Python without either gets filelock's lock by a file's existence, which the next process takes over from one
that has died.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import filelock

from fedrec._internal.files import OPEN_FLAGS
from fedrec._internal.systems import require_supported_system

_OF_THE_SYSTEM: Final = filelock.FileLock.__name__ != "SoftFileLock"
_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 0.02
"""Whoever only looks whether a file is locked holds it for an instant."""


class LockedElsewhereError(Exception):
    """Another process holds the lock."""


class HeldLock:
    """A lock that this process holds until :meth:`close`.

    Args:
        release: lets go of it.
    """

    def __init__(self, release: Callable[[], object]) -> None:
        self._release: Callable[[], object] | None = release

    def close(self) -> None:
        """Release the lock; closing twice is harmless."""
        release, self._release = self._release, None
        if release is not None:
            release()


def take_lock(path: Path) -> HeldLock:
    """Lock ``path``; create the file with mode 0600 if it doesn't exist.

    Args:
        path: the file.

    Returns:
        The lock.

    Raises:
        OSError: the file can't be opened or created.
        LockedElsewhereError: another process holds the lock.
        UnsupportedSystemError: fedrec doesn't run on this system.
    """
    require_supported_system()
    return _take(path, os.O_RDWR | os.O_CREAT)


@contextmanager
def locked(path: Path, *, seconds: float) -> Iterator[None]:
    """Hold the lock of ``path`` while the block runs.

    Args:
        path: the file; created with mode 0600 if it doesn't exist.
        seconds: how long to wait for another process at most.

    Yields:
        None.

    Raises:
        OSError: the file can't be opened or created.
        LockedElsewhereError: another process holds the lock for longer.
        UnsupportedSystemError: fedrec doesn't run on this system.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            held = take_lock(path)
            break
        except LockedElsewhereError:
            if time.monotonic() > deadline:
                raise
    try:
        yield
    finally:
        held.close()


def is_locked(path: Path) -> bool:
    """Test whether a process holds the lock, without changing it.

    Args:
        path: the file.

    Returns:
        True if another process holds it. A missing file is not locked.

    Raises:
        UnsupportedSystemError: fedrec doesn't run on this system.
    """
    require_supported_system()
    try:
        _take(path, os.O_RDONLY).close()
    except OSError:
        return False
    except LockedElsewhereError:
        return True
    return False


def _take(path: Path, mode: int) -> HeldLock:
    lock = os.open(path, mode | OPEN_FLAGS, 0o600)
    if not _OF_THE_SYSTEM:
        os.close(lock)
        return _take_by_existence(path)
    try:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_SECONDS)
            if filelock.lock_descriptor(lock, blocking=False):
                return HeldLock(lambda: os.close(lock))
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    raise LockedElsewhereError


def _take_by_existence(path: Path) -> HeldLock:
    held = filelock.SoftFileLock(f"{path}.held", mode=0o600)
    try:
        held.acquire(timeout=_PAUSE_SECONDS)
    except filelock.Timeout:
        raise LockedElsewhereError from None
    return HeldLock(held.release)
