"""Parse JSON from an untrusted party into a schema, with bounds before, during and after parsing."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from fedrec._internal.shared_results import SHARED
from fedrec._internal.text import one_line
from fedrec.errors import ProtocolError
from fedrec.protocol.schema import Strict, sha256_hex
from fedrec.protocol.shape_check import check_shape

Body = TypeVar("Body", bound=Strict)
_MOST_SAID = 200
_IN_MEMORY = 8
"""Memory that a value takes, over the length of its text."""


def read_json(raw: bytes, kind: type[Body]) -> Body:
    """Parse a JSON text into a value of a schema.

    Args:
        raw: the text, from an untrusted party.
        kind: the schema.

    Returns:
        The validated value.

    Raises:
        ProtocolError: the text doesn't fit the schema; one short line without any part of the text.
    """

    def parse() -> Body:
        check_shape(raw, kind)
        return kind.model_validate_json(raw)

    try:
        if not kind.is_common:
            return parse()
        key = ("read", kind.__qualname__, sha256_hex(raw))
        return SHARED.of(key, parse, size=lambda read: _IN_MEMORY * len(raw))
    except ValidationError as error:
        raise ProtocolError(_said(error)) from None


def _said(error: ValidationError) -> str:
    """Describe the first error: its place and kind, or the text of this package's own validators."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the whole value"
    what = first["msg"].removeprefix("Value error, ") if first["type"] == "value_error" else first["type"]
    return one_line(f"{where}: {what}", most=_MOST_SAID)
