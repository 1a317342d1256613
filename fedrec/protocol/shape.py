"""Check the shape of a JSON text against a schema, token by token, before a parser builds objects from it.

This bounds the memory that an untrusted text can take. A parser's tree of a text like ``[[],[],[]`` takes
hundreds of times the text's size; so do a validator's errors, one for each unknown key. The check refuses a
text at the first token that no value of the schema can have: an unknown, repeated or missing key, an item too
many, a string, number or text that is too long, the wrong kind of bracket. It stores only the keys of the
open objects. An accepted text is at most as deep, and has at most as many values, as the schema allows, so
that its size bounds a parser's memory. Texts in canonical form are recognised by
:mod:`fedrec.protocol.canonical_pattern` instead, in less time.
"""

from __future__ import annotations

import builtins
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedrec.errors import ProtocolError
from fedrec.protocol.canonical_pattern import MAX_NUMBER, canonical_pattern

_ESCAPED = 12
"""Most bytes of one character in JSON, escaped as a pair of ``\\uXXXX``."""
_LITERALS = {b"true", b"false", b"null"}
_PLAIN = re.compile(rb"[^\s\[\]{},:\"]*")
_SPACE = re.compile(rb"[ \t\r\n]*")
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


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
    bytes: int = field(default=0)

    @cached_property
    def canonical(self) -> re.Pattern[builtins.bytes]:
        """The expression that recognises canonical texts of this shape."""
        return canonical_pattern(self)


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


def check_shape(raw: bytes, shape: Shape) -> None:
    """Check that a JSON text fits a shape.

    Args:
        raw: the text, from an untrusted party.
        shape: the shape of the expected value.

    Raises:
        ProtocolError: the text doesn't fit; the message contains no part of the text.
    """
    if len(raw) > shape.bytes:
        raise ProtocolError(f"it is longer than {shape.bytes} bytes")
    if shape.canonical.fullmatch(raw):
        return
    end = _value(raw, _space(raw, 0), shape)
    if _space(raw, end) != len(raw):
        raise ProtocolError("there is more data after the JSON value")


def _space(raw: bytes, at: int) -> int:
    # Nearly always: canonical JSON has no space between its tokens.
    if at < len(raw) and raw[at] > 0x20:
        return at
    found = _SPACE.match(raw, at)
    return at if found is None else found.end()


def _value(raw: bytes, at: int, shape: Shape) -> int:
    """Check the value at an offset, no deeper than the schema; return the offset of its end."""
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
    raise ProtocolError(f"the value at byte {at} is of a type that isn't allowed there")


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
            raise ProtocolError(f"the key at byte {start} is unknown or repeated")
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
            raise ProtocolError(f"the array has more than {most} items, at byte {at}")
        at = _space(raw, _value(raw, at, item))
    return at + 1


def _sign(raw: bytes, at: int, sign: bytes) -> int:
    """Require a punctuation character; return the offset of the next token."""
    at = _space(raw, at)
    if raw[at : at + 1] != sign:
        raise ProtocolError(f"the text at byte {at} is not valid JSON")
    return at + 1 if sign == b'"' else _space(raw, at + 1)


def _string(raw: bytes, start: int, *, longest: int) -> int:
    last = start + longest + 1
    end = raw.find(b'"', start, last)
    while end >= 0 and _escaped(raw, end, start):
        end = raw.find(b'"', end + 1, last)
    if end < 0:
        raise ProtocolError(f"the string at byte {start} is too long or not terminated")
    return end + 1


def _escaped(raw: bytes, at: int, start: int) -> bool:
    """Test whether an odd number of backslashes precedes a quote, so that it is escaped."""
    before = at
    while before > start and raw[before - 1] == 0x5C:
        before -= 1
    return (at - before) % 2 == 1
