"""The shape of a JSON text: held against a schema, token by token, before any parser makes objects of it.

A parser's tree of a text like ``[[],[],[]`` takes hundreds of times the text's size, and so do a validator's
errors, one for each key that it doesn't know. Here a text is refused at the first token that no value of the
schema could have: an unknown, repeated or missing key, an item too many, a string, number or text too long,
another kind of bracket. Nothing is kept but the keys of the objects that are open. What passes is at most as
deep, and has at most as many values, as the schema says, so that a parser's memory follows from its size.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedrec.errors import ProtocolError

MAX_NUMBER = 32
"""Characters of a number: JSON writes a float of 64 bits in at most 25."""
_ESCAPED = 12
"""Bytes of one character as JSON may escape it: a pair of ``\\uXXXX``."""
_LITERALS = {b"true", b"false", b"null"}
_PLAIN = re.compile(rb"[^\s\[\]{},:\"]*")
_SPACE = re.compile(rb"[ \t\r\n]*")
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Shape:
    """What one value may be: any of an object, an array, a string, and a number or literal.

    ``longest`` bounds a string, in bytes between its quotes, -1 where there is none. ``bytes`` bounds the
    whole value as JSON without spaces.
    """

    fields: Mapping[str, Shape] | None = None
    required: frozenset[str] = frozenset()
    item: Shape | None = None
    most: int = 0
    longest: int = -1
    plain: bool = False
    bytes: int = field(default=0)


@cache
def shape_of(schema: type[BaseModel]) -> Shape:
    """Return the shape of a schema; ``TypeError`` where a field of it has no bound."""
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
    """Return the shape of one annotation; ``extra`` is what stood beside it in ``Annotated``."""
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
        # What a pattern of ours allows from end to end is ASCII, which no encoder of ours escapes.
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
    """Return what is any of several shapes, of which one at most is an object and one an array."""
    objects = [shape for shape in shapes if shape.fields is not None]
    arrays = [shape for shape in shapes if shape.item is not None]
    if len(objects) > 1 or len(arrays) > 1:
        raise TypeError("a field may be one of two objects or arrays: no shape tells which")
    return Shape(
        fields=objects[0].fields if objects else None,
        required=objects[0].required if objects else frozenset(),
        item=arrays[0].item if arrays else None,
        most=arrays[0].most if arrays else 0,
        longest=max(shape.longest for shape in shapes),
        plain=any(shape.plain for shape in shapes),
        bytes=max(shape.bytes for shape in shapes),
    )


def check_shape(raw: bytes, shape: Shape) -> None:
    """Raise ``ProtocolError``, with nothing of the text in it, for a text that no value of a shape can be."""
    if len(raw) > shape.bytes:
        raise ProtocolError(f"it is longer than {shape.bytes} bytes")
    end = _value(raw, _space(raw, 0), shape)
    if _space(raw, end) != len(raw):
        raise ProtocolError("something follows it")


def _space(raw: bytes, at: int) -> int:
    found = _SPACE.match(raw, at)
    return at if found is None else found.end()


def _value(raw: bytes, at: int, shape: Shape) -> int:
    """Check the value that begins at a place, as deep as the schema and no deeper; return where it ends."""
    sign = raw[at : at + 1]
    if sign == b"{" and shape.fields is not None:
        return _object(raw, at + 1, shape, shape.fields)
    if sign == b"[" and shape.item is not None:
        return _array(raw, at + 1, shape.item, most=shape.most)
    if sign == b'"' and shape.longest >= 0:
        return _string(raw, at + 1, longest=shape.longest)
    found = _PLAIN.match(raw, at, at + MAX_NUMBER + 1)
    end = at if found is None else found.end()
    if shape.plain and at < end <= at + MAX_NUMBER:
        text = raw[at:end]
        if text in _LITERALS or _NUMBER.fullmatch(text):
            return end
    raise ProtocolError(f"at byte {at} stands no value that may be there")


def _object(raw: bytes, at: int, shape: Shape, fields: Mapping[str, Shape]) -> int:
    seen: set[str] = set()
    at = _space(raw, at)
    while raw[at : at + 1] != b"}":
        if seen:
            at = _sign(raw, at, b",")
        start = _sign(raw, at, b'"')
        end = raw.find(b'"', start, start + 64)
        name = raw[start:end].decode("latin-1") if end >= 0 else ""
        if name not in fields or name in seen:
            raise ProtocolError(f"at byte {start} stands a key that is unknown, or comes twice")
        seen.add(name)
        at = _space(raw, _value(raw, _sign(raw, end + 1, b":"), fields[name]))
    if not shape.required <= seen:
        raise ProtocolError(f"the object that ends at byte {at} lacks a key")
    return at + 1


def _array(raw: bytes, at: int, item: Shape, *, most: int) -> int:
    count = 0
    at = _space(raw, at)
    while raw[at : at + 1] != b"]":
        if count:
            at = _sign(raw, at, b",")
        count += 1
        if count > most:
            raise ProtocolError(f"at byte {at} begins one item more than the {most} that there may be")
        at = _space(raw, _value(raw, at, item))
    return at + 1


def _sign(raw: bytes, at: int, sign: bytes) -> int:
    """Return where what comes after a sign begins, spaces left out."""
    at = _space(raw, at)
    if raw[at : at + 1] != sign:
        raise ProtocolError(f"at byte {at} something else stands than JSON has there")
    return at + 1 if sign == b'"' else _space(raw, at + 1)


def _string(raw: bytes, start: int, *, longest: int) -> int:
    last = start + longest + 1
    end = raw.find(b'"', start, last)
    while end >= 0 and _escaped(raw, end, start):
        end = raw.find(b'"', end + 1, last)
    if end < 0:
        raise ProtocolError(f"the text that begins at byte {start} is too long, or has no end")
    return end + 1


def _escaped(raw: bytes, at: int, start: int) -> bool:
    """Say whether an odd number of backslashes stands before a quote."""
    before = at
    while before > start and raw[before - 1] == 0x5C:
        before -= 1
    return (at - before) % 2 == 1
