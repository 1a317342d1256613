"""Put a message's head and its small objects into the body of one request or answer.

Flower sends each object of a message in a request of its own. A body here is the head, in Flower's encoding,
and then any of the objects, each with its length before it. An object is known by its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from flwr.supercore.inflatable.inflatable_object import get_object_id

PULL, PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"
"""Where a merchant asks for a message, and sends a reply."""
MOST_HELD_SECONDS: Final = 40.0
"""How long a request waits for a message at most. Less than between two heartbeats, which it replaces."""
MOST_TOGETHER: Final = 2 * 2**20
"""Most bytes of the objects in one body; the others go in requests of their own."""
MOST_OBJECTS: Final = 64
MOST_HEAD_BYTES: Final = 128 * 2**10
"""Most bytes of a message's head and its object tree: 70 bytes per object, two objects per 5 MiB."""
MOST_FRAMED_BYTES: Final = MOST_TOGETHER + MOST_HEAD_BYTES + 4 * (MOST_OBJECTS + 1)
"""Most bytes of a body."""
_LENGTH: Final = 4


def framed(head: bytes, objects: Iterable[bytes]) -> bytes:
    """Write a body.

    Args:
        head: the head, in Flower's encoding.
        objects: contents of objects.

    Returns:
        The body.
    """
    parts = (head, *objects)
    return b"".join(piece for part in parts for piece in (len(part).to_bytes(_LENGTH, "big"), part))


def unframed(body: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Read a body.

    Args:
        body: the body, from an untrusted party.

    Returns:
        The head, and the contents of objects by their hash.

    Raises:
        ValueError: :func:`framed` can't have written it, or it is too large.
    """
    head, *objects = parts_of(body)
    return head, {get_object_id(part): part for part in objects}


def parts_of(body: bytes) -> list[bytes]:
    """Read a body without hashing its objects.

    Args:
        body: the body, from an untrusted party.

    Returns:
        The head, and then the contents of objects.

    Raises:
        ValueError: :func:`framed` can't have written it, or it is too large.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(body):
        start = at + _LENGTH
        at = start + int.from_bytes(body[at:start], "big")
        if at > len(body) or start > len(body) or len(parts) > MOST_OBJECTS:
            raise ValueError("a message is cut off, or has too many objects")
        parts.append(body[start:at])
    if not parts or len(parts[0]) > MOST_HEAD_BYTES or sum(map(len, parts[1:])) > MOST_TOGETHER:
        raise ValueError("a message has no head, or is too large")
    return parts


def small_ones(ids: Iterable[str], content_of: Callable[[str], bytes]) -> dict[str, bytes]:
    """Choose the objects that go into a body.

    Args:
        ids: their ids.
        content_of: returns the content of an object; empty if it isn't there.

    Returns:
        Contents by id, of those that fit.
    """
    chosen: dict[str, bytes] = {}
    left = MOST_TOGETHER
    for key in ids:
        content = content_of(key)
        if content and len(content) <= left and len(chosen) < MOST_OBJECTS:
            chosen[key] = content
            left -= len(content)
    return chosen
