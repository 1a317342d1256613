"""Encode replies for a merchant's store, which repeats them byte for byte."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fedrec.protocol.schema import Strict
from fedrec.protocol.transport import Body


def encode_reply(body: Strict, blobs: Mapping[str, bytes]) -> bytes:
    """Encode a reply as the length of its header (4 bytes, little-endian), a JSON header, and the blobs.

    Args:
        body: the reply.
        blobs: its blobs by name.

    Returns:
        The bytes to store.

    """
    head = json.dumps(
        [body.model_dump(mode="json"), [[name, len(data)] for name, data in blobs.items()]]
    ).encode()
    return b"".join([len(head).to_bytes(4, "little"), head, *blobs.values()])


def decode_reply(data: bytes, kind: type[Body]) -> tuple[Body, dict[str, bytes]]:
    """Decode what :func:`encode_reply` wrote.

    Args:
        data: bytes of the merchant's own store, which are trusted.
        kind: the schema of the reply.

    Returns:
        The same body and blobs.

    """
    start = 4 + int.from_bytes(data[:4], "little")
    raw, lengths = json.loads(data[4:start])
    blobs: dict[str, bytes] = {}
    for name, length in lengths:
        blobs[name] = data[start : start + length]
        start += length
    return kind.model_validate_json(json.dumps(raw)), blobs
