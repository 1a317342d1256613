"""Derive from a schema which forms its values have in JSON, and how large they may be."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

MAX_NUMBER = 32
"""Most characters of a number; a 64-bit float in JSON has at most 25."""
_ESCAPED = 12
"""Most bytes of one character in JSON, escaped as a pair of ``\\uXXXX``."""


@dataclass(frozen=True)
class Shape:
    """The allowed forms of one value: any of object, array, string, and number or literal.

    Attributes:
        fields: shapes of an object's fields by key; None if it may not be an object.
        required: the keys that an object must have.
        item: shape of an array's items; None if it may not be an array.
        most: most items of an array.
        longest: most bytes of a string between its quotes; -1 if it may not be a string.
        plain: whether it may be a number or a literal (true, false, null).
        bytes: most bytes of the whole value as JSON without spaces.
    """

    fields: Mapping[str, Shape] | None = None
    required: frozenset[str] = frozenset()
    item: Shape | None = None
    most: int = 0
    longest: int = -1
    plain: bool = False
    bytes: int = 0


@cache
def shape_of(schema: type[BaseModel]) -> Shape:
    """Derive the shape of a schema; ``TypeError`` if a field has no bound on its size."""
    fields: dict[str, Shape] = {}
    hints = get_type_hints(schema, include_extras=True)
    for name in schema.model_fields:
        fields[name] = _of(hints[name], f"{schema.__name__}.{name}")
    return Shape(
        fields=fields,
        required=frozenset(name for name, info in schema.model_fields.items() if info.is_required()),
        bytes=2 + sum(len(name) + 4 + inner.bytes for name, inner in fields.items()),
    )


def _of(annotation: Any, where: str, extra: tuple[Any, ...] = ()) -> Shape:
    """Derive the shape of one annotation; ``extra`` is the metadata beside it in ``Annotated``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _of(inner, where, (*more, *extra))
    if origin in (Union, types.UnionType):
        return _either([_of(part, where, extra) for part in get_args(annotation)])
    if origin is Literal:
        values = get_args(annotation)
        longest = max((len(value) for value in values if isinstance(value, str)), default=-1)
        return Shape(longest=longest, plain=longest < 0, bytes=max(longest + 2, MAX_NUMBER))
    if origin is tuple and get_args(annotation)[1:] == (...,):
        most = _bound(extra, "max_length", where)
        item = _of(get_args(annotation)[0], where)
        return Shape(item=item, most=most, bytes=2 + most * (item.bytes + 1))
    if annotation in (int, float, bool, type(None)):
        return Shape(plain=True, bytes=MAX_NUMBER)
    if annotation is str:
        longest = _bound(extra, "max_length", where)
        # An anchored pattern of this package allows ASCII only, which its encoder does not escape.
        whole = any(str(getattr(part, "pattern", None)).endswith("$") for part in extra)
        longest *= 1 if whole else _ESCAPED
        return Shape(longest=longest, bytes=longest + 2)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return shape_of(annotation)
    raise TypeError(f"{where} has a type without a shape")


def _bound(extra: tuple[Any, ...], name: str, where: str) -> int:
    for part in extra:
        parts = part.metadata if isinstance(part, FieldInfo) else (part,)
        for one in parts:
            found = getattr(one, name, None)
            if isinstance(found, int):
                return found
    raise TypeError(f"{where} has no bound of its size")


def _either(shapes: list[Shape]) -> Shape:
    """Return the union of several shapes, of which at most one is an object and at most one an array."""
    objects = [shape for shape in shapes if shape.fields is not None]
    arrays = [shape for shape in shapes if shape.item is not None]
    if len(objects) > 1 or len(arrays) > 1:
        raise TypeError("a field may be one of two objects or arrays: a shape can't distinguish them")
    return Shape(
        fields=objects[0].fields if objects else None,
        required=objects[0].required if objects else frozenset(),
        item=arrays[0].item if arrays else None,
        most=arrays[0].most if arrays else 0,
        longest=max(shape.longest for shape in shapes),
        plain=any(shape.plain for shape in shapes),
        bytes=max(shape.bytes for shape in shapes),
    )
