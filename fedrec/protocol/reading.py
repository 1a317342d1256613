"""Read the JSON of a schema out of bytes of somebody else's: bounded before, while and after it is parsed."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from fedrec._internal.text import one_line
from fedrec.errors import ProtocolError
from fedrec.protocol.schema import Strict
from fedrec.protocol.shape import check_shape, shape_of

Body = TypeVar("Body", bound=Strict)
_MOST_SAID = 200


def read_json(raw: bytes, kind: type[Body]) -> Body:
    """Return the value of a schema that a JSON text is.

    Raises ``ProtocolError``, in one short line that holds nothing of the text, when it is none.
    """
    try:
        check_shape(raw, shape_of(kind))
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise ProtocolError(_said(error)) from None


def _said(error: ValidationError) -> str:
    """Say where the first problem is, and of what kind; what our own validators say is said, too."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the whole"
    what = first["msg"].removeprefix("Value error, ") if first["type"] == "value_error" else first["type"]
    return one_line(f"{where}: {what}", most=_MOST_SAID)
