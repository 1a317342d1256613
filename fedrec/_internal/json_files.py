"""Write JSON files, and read those of one form, or that name their schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fedrec._internal.files import read_regular, write_atomically
from fedrec._internal.validation_messages import problem_text
from fedrec.errors import ConfigError, FedrecError

Content = TypeVar("Content")

_LARGEST = 1 << 26


def write_json(path: Path, value: object, *, mode: int = 0o666) -> None:
    """Write a value as a JSON file for people and programs, atomically and durably.

    Args:
        path: the file to write.
        value: JSON values; every number is finite.
        mode: permissions of a new file, before the umask.

    Raises:
        OSError: the disk fails; the old content is still there.
        ValueError: a number isn't finite, which JSON can't represent.
    """
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False).encode(), mode=mode)


def read_checked(
    path: Path,
    parse: Callable[[bytes], Content],
    *,
    what: str,
    error: type[FedrecError] = ConfigError,
    remedy: str = "",
    largest: int = _LARGEST,
) -> Content:
    """Read a JSON file of one form.

    Args:
        path: the file.
        parse: reads its content; raises ``ValueError`` where that has another form, as schemas do.
        what: what the file should be, for messages.
        error: raised if the file can't be used; one line names the file, and the place in it.
        remedy: what to do about that, for messages.
        largest: the most bytes that are read.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: there is no such file.
    """
    end = f"; {remedy}" if remedy else ""
    try:
        data = read_regular(path, most=largest + 1)
    except FileNotFoundError:
        raise
    except OSError as reason:
        raise error(f"{path} can't be read: {problem_text(reason)}{end}") from None
    if len(data) > largest:
        raise error(f"{path} is too large: more than {largest:,} bytes{end}")
    try:
        return parse(data)
    except ValueError as reason:
        raise error(f"{path} is no {what}: {problem_text(reason)}{end}") from None


def read_document(path: Path, *, schema: str, largest: int = _LARGEST) -> dict[str, Any]:
    """Read a JSON file that another command wrote.

    Args:
        path: the file.
        schema: the schema that it must name.
        largest: the most bytes that are read.

    Returns:
        Its content.

    Raises:
        ConfigError: it can't be read, is too large, or is of another schema.
    """
    try:
        data = read_regular(path, most=largest + 1)
        if len(data) > largest:
            raise ConfigError(f"{path} is too large: more than {largest:,} bytes")
        found = json.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read ({error})") from None
    if not isinstance(found, dict) or found.get("schema") != schema:
        raise ConfigError(f"{path} is not a file of schema {schema}")
    return found
