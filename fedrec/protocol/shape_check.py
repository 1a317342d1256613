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

import re
from collections.abc import Mapping

from pydantic import BaseModel

from fedrec.errors import ProtocolError
from fedrec.protocol.canonical_pattern import pattern_of
from fedrec.protocol.shape import MAX_NUMBER, Shape, shape_of

_LITERALS = {b"true", b"false", b"null"}
_PLAIN = re.compile(rb"[^\s\[\]{},:\"]*")
_SPACE = re.compile(rb"[ \t\r\n]*")
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


def check_shape(raw: bytes, schema: type[BaseModel]) -> None:
    """Check that a JSON text has the shape of a schema's values.

    Args:
        raw: the text, from an untrusted party.
        schema: the schema of the expected value.

    Raises:
        ProtocolError: the text doesn't fit; the message contains no part of the text.
    """
    shape = shape_of(schema)
    if len(raw) > shape.bytes:
        raise ProtocolError(f"it is longer than {shape.bytes} bytes")
    if pattern_of(schema).fullmatch(raw):
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
