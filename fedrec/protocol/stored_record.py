"""Read a record that grows from a file, where no file is an empty record."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from fedrec._internal.json_files import read_checked
from fedrec.errors import FedrecError
from fedrec.protocol.schema import Strict

Record = TypeVar("Record", bound=Strict)


def read_record(path: Path, kind: type[Record], *, error: type[FedrecError]) -> Record:
    """Read a record.

    Args:
        path: its file.
        kind: what it is; made without values, it is empty.
        error: raised if the file can't be used.

    Returns:
        The record, an empty one if there is no file.
    """
    try:
        return read_checked(
            path,
            kind.model_validate_json,
            what="record of this version",
            error=error,
            remedy="restore it from a backup",
        )
    except FileNotFoundError:
        return kind()
