"""Read JSON documents that name their schema, as this package writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedrec.errors import ConfigError

_LARGEST = 1 << 26


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
        if path.stat().st_size > largest:
            raise ConfigError(f"{path} is too large: more than {largest:,} bytes")
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read ({error})") from None
    if not isinstance(found, dict) or found.get("schema") != schema:
        raise ConfigError(f"{path} is not a file of schema {schema}")
    return found
