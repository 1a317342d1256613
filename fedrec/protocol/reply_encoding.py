"""Encode replies for storage: a merchant repeats them byte for byte, a server keeps them until the end."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fedrec.errors import ProtocolError
from fedrec.protocol.reading import Body, read_json
from fedrec.protocol.schema import Strict
from fedrec.protocol.transport import check_blob_names

_LENGTH_BYTES = 4


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
    return b"".join([len(head).to_bytes(_LENGTH_BYTES, "little"), head, *blobs.values()])


def decode_reply(data: bytes, kind: type[Body]) -> tuple[Body, dict[str, bytes]]:
    """Decode what :func:`encode_reply` wrote.

    The file may have been changed since: its content is checked as a message is.

    Args:
        data: the stored bytes.
        kind: the schema of the reply.

    Returns:
        The same body and blobs.

    Raises:
        ProtocolError: the bytes are not an encoded reply of this kind.
    """
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    try:
        raw, lengths = json.loads(data[_LENGTH_BYTES:start])
        named = [(str(name), int(length)) for name, length in lengths]
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise ProtocolError("a stored reply has no readable header") from None
    if min((length for _, length in named), default=0) < 0 or len(data) != start + sum(
        length for _, length in named
    ):
        raise ProtocolError("a stored reply has another size than its header says")
    check_blob_names([name for name, _ in named], what="a stored reply")
    blobs: dict[str, bytes] = {}
    for name, length in named:
        blobs[name] = data[start : start + length]
        start += length
    return read_json(json.dumps(raw).encode(), kind), blobs
