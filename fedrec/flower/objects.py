"""Rebuild a message from the objects in which Flower transmits it, and refuse all other objects.

Flower's own reader accepts anything: an array that names one piece a million times, a record of millions of
numbers, a tree whose nodes refer to each other, so that following it never ends. Here each object is checked
against the form in which Flower writes fedrec's messages, before anything is built from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_head_values_from_object_content,
)

MAX_OBJECTS = 4000
"""Most objects of a message: two per piece of 5 MiB."""
_MAX_DEPTH = 5
"""Levels of the tree: a message, its content, a record, an array, a piece."""
_MAX_ITEMS = 1024
_MAX_KEY = 64
_DIVIDER = b"\x00"


@dataclass(frozen=True)
class _Form:
    """The form of one kind of object: kinds of its children, most children, and most bytes of its body."""

    made_by: Callable[[bytes, dict[str, InflatableObject]], InflatableObject]
    children: tuple[str, ...]
    most: int
    bytes: int


def check_tree(tree: ObjectTree) -> None:
    """Check that a tree of objects is not too large or too deep, and has no object twice.

    A tree whose parents name a child twice on every level is short to write, but exponentially large to
    follow.

    Raises:
        ValueError: it is not the tree of a message.
    """
    seen: set[str] = set()
    level = [tree]
    for _ in range(_MAX_DEPTH):
        for node in level:
            if len(node.object_id) != 64 or node.object_id in seen or len(seen) >= MAX_OBJECTS:
                raise ValueError("a tree of objects has malformed or repeated ids, or too many")
            seen.add(node.object_id)
        level = [child for node in level for child in node.children]
        if len(level) > MAX_OBJECTS:
            break
    if level:
        raise ValueError("a tree of objects is too large or too deep")


def inflate(content: bytes, children: Mapping[str, InflatableObject]) -> InflatableObject:
    """Build an object from its content and its children.

    Args:
        content: the object in Flower's encoding, from an untrusted party.
        children: its children by object id, built by this function.

    Returns:
        The object.

    Raises:
        ValueError: no message of fedrec has such an object, or the children are not those that it names.
    """
    end = content.find(_DIVIDER, 0, 80 * MAX_OBJECTS)
    if end < 0:
        raise ValueError("an object has no header")
    kind, named, length = get_object_head_values_from_object_content(content)
    form = _FORMS.get(kind)
    size = len(content) - end - 1
    if form is None or length != size or size > form.bytes or len(named) > form.most:
        raise ValueError("an object is of a wrong kind or size")
    if named != list(dict.fromkeys(named)) or set(named) != set(children):
        raise ValueError("an object's children are not those that it names")
    ordered = {key: children[key] for key in named}
    if any(type(child).__qualname__ not in form.children for child in ordered.values()):
        raise ValueError("an object has a child of a wrong kind")
    return form.made_by(content, ordered)


def inflate_tree(tree: ObjectTree, contents: dict[str, bytes]) -> InflatableObject:
    """Build the object at the root of a tree.

    Args:
        tree: a tree that has passed :func:`check_tree`.
        contents: content by object id; each is removed once it is used, to free memory.

    Returns:
        The object.

    Raises:
        ValueError: no message of fedrec has such an object.
    """
    children = {child.object_id: inflate_tree(child, contents) for child in tree.children}
    return inflate(contents.pop(tree.object_id), children)


def _array(content: bytes, children: dict[str, InflatableObject]) -> InflatableObject:
    """Build an array from its one piece; refuse a body that names a piece several times."""
    said = json.loads(content[content.index(_DIVIDER) + 1 :])
    if len(children) != 1 or said.get("arraychunk_ids") != [0]:
        raise ValueError("an array does not consist of one piece")
    return Array.inflate(content, children)


def _config(content: bytes, children: dict[str, InflatableObject]) -> InflatableObject:
    """Build a record of bytes by name; parse it by hand, since protobuf would build any list in it."""
    body = memoryview(content)[content.index(_DIVIDER) + 1 :]
    found: dict[str, bytes] = {}
    at = 0
    while at < len(body):
        item, at = _delimited(body, at, tag=0x0A)
        key, rest = _delimited(item, 0, tag=0x0A)
        value, end = _delimited(item, rest, tag=0x12)
        data, last = _delimited(value, 0, tag=0x32)
        name = str(key, "utf-8") if len(key) <= _MAX_KEY else ""
        if end != len(item) or last != len(value) or not name or name in found or len(found) >= _MAX_ITEMS:
            raise ValueError("a record contains something other than named bytes")
        found[name] = bytes(data)
    return ConfigRecord(dict(found), keep_input=False)


def _delimited(data: memoryview, at: int, *, tag: int) -> tuple[memoryview, int]:
    """Return a length-delimited protobuf field of this tag, and the offset of its end."""
    if at >= len(data) or data[at] != tag:
        raise ValueError("a record has an unexpected field")
    at, length = at + 1, 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            raise ValueError("a record is cut off")
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    else:
        raise ValueError("a record has a length field that is too long")
    if at + length > len(data):
        raise ValueError("a record is cut off")
    return data[at : at + length], at + length


_FORMS: Mapping[str, _Form] = {
    "Message": _Form(Message.inflate, children=("RecordDict",), most=1, bytes=2**14),
    "RecordDict": _Form(RecordDict.inflate, children=("ConfigRecord", "ArrayRecord"), most=2, bytes=2**10),
    "ConfigRecord": _Form(_config, children=(), most=0, bytes=2**27),
    "ArrayRecord": _Form(ArrayRecord.inflate, children=("Array",), most=MAX_OBJECTS, bytes=2**19),
    "Array": _Form(_array, children=("ArrayChunk",), most=1, bytes=2**9),
    "ArrayChunk": _Form(ArrayChunk.inflate, children=(), most=0, bytes=5 * 2**20),
}
