"""Say of photos which ones couldn't be read, in the same words by every command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import typer

from fedrec._internal.text import counted, one_line
from fedrec.errors import DataError

_LONGEST: Final = 4096


def file_name(path: object) -> str:
    """Return a file's path as a line can show it: a name may hold a line end, or steer a terminal."""
    return one_line(path, most=_LONGEST)


def check_read(unread: Mapping[Path, str], *, of: int, quiet: bool) -> None:
    """Tell how many files couldn't be read as photos, after each was named with its reason.

    Args:
        unread: reason by file.
        of: number of all files.
        quiet: tell nothing where others could be read: the output says it of each file.

    Raises:
        DataError: none could be read.
    """
    if len(unread) < of:
        if unread and not quiet:
            typer.echo(f"{len(unread):,} of {counted(of, 'file')} couldn't be read as photos", err=True)
        return
    if of == 1:
        ((path, reason),) = unread.items()
        raise DataError(f"{file_name(path)} can't be read as a photo: {one_line(reason)}")
    raise DataError(f"none of {counted(of, 'file')} could be read as a photo")
