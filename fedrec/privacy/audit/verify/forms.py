"""Read JSON values into dataclasses: the fields that checks use, each of its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Form = TypeVar("Form")

KEY = "key"
"""In a field's metadata: its key in JSON, where that isn't the field's name."""

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    tuple: "a list",
    Mapping: "an object",
}


def read_form(form: type[Form], value: Any, *, what: str) -> Form:
    """Read a JSON object.

    Args:
        form: a dataclass whose fields are numbers, texts, other forms, and tuples, mappings or None of these;
            a field of any type is left as it is.
        value: what was parsed; keys that the form has no field for are left out.
        what: what it is, for messages.

    Returns:
        The form.

    Raises:
        ValueError: a field is missing or of another type; the message names it by its path.
    """
    found: Form = _read(form, value, what=what, path="")
    return found


def _read(kind: Any, value: Any, *, what: str, path: str) -> Any:
    if kind is Any:
        return value
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else _read(options[0], value, what=what, path=path)
    if is_dataclass(kind):
        _need(isinstance(value, dict), Mapping, what=what, path=path)
        return _fields_of(kind, value, what=what, path=path)
    if origin is tuple:
        _need(isinstance(value, list), tuple, what=what, path=path)
        return tuple(_read(options[0], each, what=what, path=f"{path}.{at}") for at, each in enumerate(value))
    if origin is Mapping:
        _need(isinstance(value, dict), Mapping, what=what, path=path)
        return {
            name: _read(options[1], each, what=what, path=f"{path}.{name}") for name, each in value.items()
        }
    kinds = (int, float) if kind is float else (kind,)
    # In Python, true is a whole number.
    _need(isinstance(value, kinds) and isinstance(value, bool) == (kind is bool), kind, what=what, path=path)
    return value


def _fields_of(form: Any, value: Mapping[str, Any], *, what: str, path: str) -> Any:
    given = {}
    for name, key, kind, needed in _kinds_of(form):
        if key in value:
            given[name] = _read(kind, value[key], what=what, path=f"{path}.{key}")
        elif needed:
            raise ValueError(f"{what} has no '{f'{path}.{key}'[1:]}'")
    return form(**given)


@lru_cache
def _kinds_of(form: Any) -> tuple[tuple[str, str, Any, bool], ...]:
    """Return name, key and type of each field of a form, and whether it must be there."""
    hints = get_type_hints(form)
    return tuple(
        (each.name, each.metadata.get(KEY, each.name), hints[each.name], each.default is MISSING)
        for each in fields(form)
    )


def _need(holds: bool, kind: Any, *, what: str, path: str) -> None:
    if not holds:
        where = f"'{path[1:200]}' of {what}" if path else what
        raise ValueError(f"{where} is not {_WORDS[kind]}")
