"""Turn the validation errors of a pydantic schema into plain English."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fedrec._internal.text import one_line

_BOUNDS = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be {le:g} or less",
    "too_short": "must hold {min_length} or more",
    "too_long": "must hold {max_length} or fewer",
    "string_too_long": "must be of {max_length} characters or fewer",
    "multiple_of": "must be a multiple of {multiple_of}",
}
_KINDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number that is not infinite",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "path_type": "must be a path",
    "missing": "is missing",
    "json_invalid": "is not JSON",
    "string_pattern_mismatch": "has the wrong format",
    "extra_forbidden": "is unknown",
    "unexpected_keyword_argument": "is unknown",
    "model_type": "must be an object or a table",
    "dataclass_type": "must be an object or a table",
    "dict_type": "must be an object or a table",
    "frozen_set_type": "must be a list",
}
_FORMS = {r"^[0-9a-f]{64}$": "must be 64 hexadecimal digits (0-9, a-f)"}


@dataclass(frozen=True)
class Problem:
    """One validation error.

    Attributes:
        where: path to the field; empty for the whole value.
        text: what is wrong, in plain English.
        value: the value that was given.
        kind: pydantic's type of the error.
    """

    where: tuple[str, ...]
    text: str
    value: Any
    kind: str


def first_problem(error: ValidationError) -> Problem:
    """Return the first error of a schema; texts of this package's own validators are kept unchanged."""
    return problem_of(error.errors(include_url=False)[0])


def problem_of(first: Mapping[str, Any]) -> Problem:
    """Return one error of a schema, as pydantic lists it, in plain English."""
    kind, message = first["type"], str(first["msg"])
    context = first.get("ctx") or {}
    if kind == "value_error":
        text = message.removeprefix("Value error, ")
    elif kind == "literal_error":
        text = f"must be {context.get('expected')}"
    elif context.get("pattern") in _FORMS:
        text = _FORMS[context["pattern"]]
    elif kind in _BOUNDS:
        text = _BOUNDS[kind].format_map(context)
    else:
        text = _KINDS.get(kind, message[:1].lower() + message[1:])
    return Problem(where=tuple(map(str, first["loc"])), text=text, value=first["input"], kind=kind)


def problem_text(error: Exception) -> str:
    """Say in one line why a file can't be used.

    Args:
        error: what its reader raised: an error of a schema, of another format, or of the system; a
            ``KeyError`` names what the file lacks.

    Returns:
        The first problem, with its place in the file if that is known.
    """
    if isinstance(error, ValidationError):
        problem = first_problem(error)
        if not problem.where and problem.kind == "value_error":
            return one_line(problem.text)
        place = f"'{'.'.join(problem.where)}'" if problem.where else "its content"
        return one_line(f"{place} {problem.text}")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return one_line(f"{error} is missing")
    return one_line(error)
