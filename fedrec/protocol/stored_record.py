"""Read a record that grows from a file, where no file is an empty record."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from fedrec._internal.validation_messages import problem_text
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
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError) as reason:
        raise error(f"{path} can't be used: {problem_text(reason)}; restore it from a backup") from None
