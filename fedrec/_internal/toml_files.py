"""Read TOML files that people edit; what is wrong with one is a line that names the file and the key."""

from __future__ import annotations

import tomllib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from fedrec._internal.files import read_regular
from fedrec._internal.suggestions import did_you_mean
from fedrec._internal.validation_messages import first_problem
from fedrec.errors import ConfigError

_LARGEST: Final = 1 << 20
_OTHER_MARKS: Final = (BOM_UTF16_LE, BOM_UTF16_BE)
Table = TypeVar("Table", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a byte order mark, as editors on Windows write one, is skipped.

    Args:
        path: the file.

    Returns:
        Its keys and tables.

    Raises:
        ConfigError: it can't be read, is larger than 1 MiB, or is not TOML.
    """
    try:
        data = read_regular(path, most=_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror or error}") from None
    if len(data) > _LARGEST:
        raise ConfigError(f"{path} is larger than {_LARGEST:,} bytes: it can't be the right file")
    if data.startswith(_OTHER_MARKS):
        raise ConfigError(f"{path} is text in UTF-16: save it as UTF-8")
    try:
        text = data.removeprefix(BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} is not in UTF-8 (at line {line}): save it as UTF-8") from None
    try:
        return tomllib.loads(text)
    # A number of thousands of digits is a ValueError alone.
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not usable: its values are nested too deeply") from None


def read_settings(path: Path, form: type[Table]) -> Table:
    """Read a TOML file of a known form.

    Args:
        path: the file.
        form: its keys, and what each may be.

    Returns:
        What it holds.

    Raises:
        ConfigError: the file can't be used; the line names the first key that is wrong.
    """
    return checked_table(read_toml(path), form, where=path)


def checked_table(values: dict[str, Any], form: type[Table], *, where: Path, key: str = "key") -> Table:
    """Check the values of a file's table.

    Args:
        values: the values.
        form: its keys, and what each may be.
        where: the file, for the message.
        key: what a key of it is called.

    Returns:
        The checked values.

    Raises:
        ConfigError: a key is unknown, missing, or has a wrong value.
    """
    try:
        return form.model_validate(values)
    except ValidationError as error:
        problem = first_problem(error)
        place = ".".join(problem.where)
        if problem.kind == "extra_forbidden":
            hint = did_you_mean(problem.where[-1], form.model_fields)
            raise ConfigError(f"{where}: there is no {key} '{place}'{hint}") from None
        named = f"'{place}' " if place else ""
        raise ConfigError(f"{where}: {named}{problem.text}") from None
