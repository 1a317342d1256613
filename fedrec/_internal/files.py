"""Write files that survive a crash: a reader finds the old content or the new content, never a mixture.

A file of lines (one JSON document each) grows by whole lines. A line that a crash or a full disk cut off
doesn't count as a line; the next line overwrites it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

OPEN_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""For ``os.open`` on every system: not for child processes, and without Windows' change of line ends."""
_BLOCK = 1 << 16
_LONGEST_NAME: Final = 255
"""Of a file, in bytes, on the file systems that there are."""
_UNFINISHED: Final = re.compile(r"\.[0-9a-f]{16}\.tmp$")
_ABANDONED_SECONDS: Final = 86_400
"""No write takes as long: what is older is of a process that was killed."""
_cleared: set[Path] = set()
"""Folders in which this process has looked for what killed processes left."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading that somebody else may have put there.

    A pipe in its place would keep the reader waiting for ever, and a device would never end.

    Args:
        path: the file, or a link to one.

    Returns:
        The open file.

    Raises:
        IsADirectoryError: it is a folder.
        OSError: it can't be opened, or is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | OPEN_FLAGS)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


def read_regular(path: Path, *, most: int | None = None) -> bytes:
    """Read a file that somebody else may have put there.

    Args:
        path: the file, or a link to one.
        most: how many bytes of it; None for all. One more than is allowed shows a file that is too large.

    Returns:
        Its first bytes.

    Raises:
        OSError: it can't be read, or is no regular file.
    """
    with open_regular(path) as file:
        return file.read(-1 if most is None else most)


@contextmanager
def naming(path: Path, *aliases: Path) -> Iterator[None]:
    """Add the file name to an ``OSError`` of a write that has none, or names a file that stands for it.

    Args:
        path: the file that is written.
        aliases: files that stand for it meanwhile, such as the one that will be renamed to it.

    Yields:
        Nothing.

    Raises:
        OSError: what the block raises, with the name of ``path``.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename in map(str, aliases):
            error.filename, error.filename2 = str(path), None
        raise


def write_atomically(
    path: Path, data: bytes, *, mode: int = 0o666, on_event: Callable[[str], None] = lambda event: None
) -> None:
    """Write ``data`` to a file with :func:`replacing`.

    Args:
        path: the file to write.
        data: its whole new content.
        mode: permissions of a new file, before the umask.
        on_event: called with the name of each step; tests simulate a crash there.

    Raises:
        OSError: the disk fails; the old content is still there.
    """
    with replacing(path, mode=mode, on_event=on_event) as file:
        file.write(data)


@contextmanager
def replacing(
    path: Path, *, mode: int = 0o666, on_event: Callable[[str], None] = lambda event: None
) -> Iterator[BinaryIO]:
    """Open a file for writing such that a crash leaves the old or the new content.

    The new content is durable once the block ends. After any error in the block the old content is still
    there.

    Args:
        path: the file to replace.
        mode: permissions of a new file, before the umask.
        on_event: called with the name of each step; tests simulate a crash there.

    Yields:
        A binary file to write the new content to.

    Raises:
        OSError: the disk fails; the old content is still there.
    """
    scratch = _scratch(path)
    _clear_abandoned(path.parent)
    with naming(path, scratch):
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                on_event("opened")
                yield file
                file.flush()
                on_event("written")
                os.fsync(file.fileno())
            on_event("synced")
            scratch.replace(path)
        except BaseException:
            with suppress(OSError):
                scratch.unlink()
            raise
    on_event("replaced")
    sync_folder(path.parent)


def _scratch(path: Path) -> Path:
    """Return a new name beside a file, by which its next content goes until it is whole.

    No two writers have the same, be it in one process or in several.
    """
    end = f".{secrets.token_hex(8)}.tmp"
    return path.with_name(os.fsdecode(os.fsencode(path.name)[: _LONGEST_NAME - len(end)]) + end)


def _clear_abandoned(folder: Path) -> None:
    """Delete what processes that were killed while they wrote have left, at the first write to a folder."""
    if folder in _cleared:
        return
    _cleared.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        oldest = time.time() - _ABANDONED_SECONDS
        for entry in entries:
            if _UNFINISHED.search(entry.name) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                Path(entry).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable (fsync); ``OSError`` if the disk fails.

    Windows opens no folder as a file, and keeps a file's entry durable together with the file.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | OPEN_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


Stamp = tuple[int, int, int]
"""A value that changes when a file is written or replaced: its time in nanoseconds, its size, its inode."""


def stamp_of(found: os.stat_result) -> Stamp:
    """Return the stamp of a file whose state was read."""
    return found.st_mtime_ns, found.st_size, found.st_ino


def file_stamp(path: Path) -> Stamp | None:
    """Return the stamp of a file; None if it can't be read."""
    try:
        return stamp_of(path.stat())
    except OSError:
        return None


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read (mode 0600), durably.

    Args:
        path: the file to create.
        content: the secret.

    Raises:
        FileExistsError: the file exists.
        OSError: the disk fails.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600)
    with naming(path), os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Append lines to a file, durably; overwrite a last line that was cut off.

    Args:
        path: the file, created if it doesn't exist.
        lines: lines without their ends; none may contain a newline.

    Raises:
        OSError: the disk fails; the earlier lines are still there.
    """
    with naming(path), path.open("a+b") as file:
        file.truncate(_whole_bytes(file))
        file.write(b"".join(line + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[bytes]:
    """Return the complete lines of a file, without their ends; an empty list if there is no file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1].splitlines()


def _whole_bytes(file: BinaryIO) -> int:
    """Return the offset at which the last complete line of a file ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
