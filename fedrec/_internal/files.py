"""Files that survive a crash: a reader finds the old content or the new one, never half of either.

A file of lines (one JSON document each) grows by whole lines: one that a crash or a full disk cut off is no
line, and the next takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_BLOCK = 1 << 16


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in an ``OSError`` of a write, which has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(
    path: Path, data: bytes, *, mode: int = 0o666, on_event: Callable[[str], None] = lambda event: None
) -> None:
    """Write a file as :func:`replacing` does."""
    with replacing(path, mode=mode, on_event=on_event) as file:
        file.write(data)


@contextmanager
def replacing(
    path: Path, *, mode: int = 0o666, on_event: Callable[[str], None] = lambda event: None
) -> Iterator[BinaryIO]:
    """Yield a file to write, so that a crash leaves the old content or the new, durable after the block.

    ``mode`` is that of a new file, less the umask; ``on_event`` is told each step, for tests that stop there.
    Raises ``OSError`` when the disk fails; the old content is still there, as after any error in the block.
    """
    scratch = path.with_name(path.name + ".tmp")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with _naming(path), os.fdopen(handle, "wb") as file:
        on_event("opened")
        yield file
        file.flush()
        on_event("written")
        os.fsync(file.fileno())
    on_event("synced")
    scratch.replace(path)
    on_event("replaced")
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; ``OSError`` when the disk fails."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; ``FileExistsError`` if there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with _naming(path), os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Add lines to a file, durably, in place of a last one that was cut off; none may hold a newline.

    Raises ``OSError`` when the disk fails; the lines before are still there.
    """
    with _naming(path), path.open("a+b") as file:
        file.truncate(_whole_bytes(file))
        file.write(b"".join(line + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[bytes]:
    """Return a file's whole lines, without their ends; there are none where there is no file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1].splitlines()


def _whole_bytes(file: BinaryIO) -> int:
    """Return where the last whole line of a file ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
