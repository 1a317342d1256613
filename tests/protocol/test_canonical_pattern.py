"""The expression for canonical texts matches nothing that the schema's bounds don't allow."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fedrec.protocol.canonical_pattern import canonical_pattern, pattern_of
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.shape import MAX_NUMBER, Shape, shape_of
from tests.support.sample_messages import BODIES

# What tokens begin, end or continue with, and what a number or a string could be broken by.
PIECES = [
    b'"',
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"null",
    b"1",
    b"-",
    b".",
    b"e",
    b"x",
    b" ",
    b"\n",
    b"\xff",
    b"\\u4e2d",
    b"\\",
]


def fits(value: Any, shape: Shape) -> bool:
    """Hold a parsed value against a shape; an object is its pairs, a number its text."""
    if isinstance(value, Pairs):
        names = [name for name, _ in value.items]
        fields = shape.fields
        return (
            fields is not None
            and len(set(names)) == len(names)
            and shape.required <= set(names) <= set(fields)
            and all(fits(inner, fields[name]) for name, inner in value.items)
        )
    if isinstance(value, list):
        item = shape.item
        return item is not None and len(value) <= shape.most and all(fits(inner, item) for inner in value)
    if isinstance(value, str):
        return len(value.encode("latin-1")) <= shape.longest
    return shape.plain and (not isinstance(value, bytes) or len(value) <= MAX_NUMBER)


class Pairs:
    """An object as its pairs, with repeated keys."""

    def __init__(self, items: list[tuple[str, Any]]) -> None:
        self.items = items


def parse(raw: bytes) -> Any:
    """Parse a text without backslashes; numbers become bytes, so that they differ from strings."""
    return json.loads(
        raw.decode("latin-1"),
        object_pairs_hook=Pairs,
        parse_int=str.encode,
        parse_float=str.encode,
        parse_constant=str.encode,
        strict=False,
    )


@given(data=st.data())
def test_a_matching_text_is_within_the_bounds_of_its_schema(data: st.DataObject) -> None:
    body = data.draw(st.sampled_from(BODIES))
    raw, shape = body.canonical_bytes(), shape_of(type(body))
    for _ in range(data.draw(st.integers(0, 2))):
        start = data.draw(st.integers(0, len(raw)))
        end = min(len(raw), start + data.draw(st.sampled_from((0, 1, 2, 70))))
        # A repeated part makes keys come twice, arrays longer and strings too long.
        part = data.draw(st.sampled_from((*PIECES, raw[start:end] * data.draw(st.integers(2, 40)))))
        raw = raw[:start] + part + raw[end:]
    if pattern_of(type(body)).fullmatch(raw):
        # Escapes are those of characters beyond ASCII alone; as plain bytes they change no bound.
        assert raw.count(b"\\") == len(re.findall(rb"\\u[0-9a-f]{4}", raw))
        # The expression leaves leading zeros to the parser.
        try:
            value = parse(raw.replace(b"\\", b"#"))
        except json.JSONDecodeError as error:
            assert error.pos and raw[error.pos - 1 : error.pos + 1].lstrip(b"-")[:1] == b"0"
            return
        assert fits(value, shape)


def test_every_sample_is_recognised_and_no_bound_is_passed() -> None:
    for body in BODIES:
        raw = body.canonical_bytes()
        assert b"\\" in raw or pattern_of(type(body)).fullmatch(raw)
    item = Shape(longest=3)
    shape = Shape(fields={"b": Shape(item=item, most=2), "a": Shape(plain=True)})
    for raw, matches in {
        b'{"a":1,"b":["xxx","y"]}': True,
        b'{"a":-1.5e+3,"b":[]}': True,
        b'{"a":null,"b":[]}': True,
        b'{"a":1,"b":["xxx","y","z"]}': False,
        b'{"a":1,"b":["xxxx"]}': False,
        b'{"a":1,"b":[["x"]]}': False,
        b'{"b":[],"a":1}': False,
        b'{"a":1,"a":1,"b":[]}': False,
        b'{"a":1}': False,
        b'{"a":"1","b":[]}': False,
        b'{"a":' + b"1" * MAX_NUMBER + b',"b":[]}': True,
        b'{"a":' + b"1" * (MAX_NUMBER + 1) + b',"b":[]}': False,
        b'{"a":0.' + b"1" * (MAX_NUMBER - 1) + b',"b":[]}': False,
        b'{"a":nullnull,"b":[]}': False,
    }.items():
        assert bool(canonical_pattern(shape).fullmatch(raw)) == matches, raw


def test_the_largest_schema_compiles() -> None:
    assert pattern_of(JoinRequest).groups == 0
