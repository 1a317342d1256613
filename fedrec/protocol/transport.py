"""How a message travels: one strict JSON body plus named blobs of bytes in a Flower ``RecordDict``.

Small blobs lie beside the body, large ones are arrays. Everything read from a message is hostile until it has
passed the size limits given here and the schema of its body; nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TypeVar, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import ValidationError

from fedrec.errors import ProtocolError
from fedrec.protocol.schema import Strict, sha256_hex

MAX_BODY_BYTES = 16 * 2**20
_BODY, _BLOBS, _JSON, _SMALL = "body", "blobs", "json", "blob:"
_BLOB_TYPE = "fedrec.bytes/1"
_MAX_COLONS = 50_000
"""A thousand survivors' commitments, the body of most keys, have twelve thousand colons."""
_LARGE_BYTES = 2**19
"""Flower moves an array in requests of its own; a body takes one request, whole."""
PIECE_BYTES = 5 * 2**20
"""A larger blob is cut into arrays of this size, what Flower moves at once: it would copy a whole one."""

Body = TypeVar("Body", bound=Strict)


def pack(body: Strict, blobs: Mapping[str, bytes] | None = None) -> RecordDict:
    """Put a body and its blobs into a Flower ``RecordDict``."""
    values: dict[str, bytes] = {_JSON: body.canonical_bytes()}
    arrays: dict[str, Array] = {}
    for name, data in (blobs or {}).items():
        if len(data) < _LARGE_BYTES:
            values[_SMALL + name] = data
            continue
        for piece, start in enumerate(range(0, len(data), PIECE_BYTES)):
            part = data[start : start + PIECE_BYTES]
            arrays[f"{name}/{piece}"] = Array(dtype="uint8", shape=(len(part),), stype=_BLOB_TYPE, data=part)
    content = RecordDict({_BODY: ConfigRecord(dict(values))})
    if arrays:
        content[_BLOBS] = ArrayRecord(arrays)
    return content


def with_body(content: RecordDict, body: Strict) -> RecordDict:
    """Return a message of :func:`pack` with another body; both have the very same blobs, not copies."""
    values = {**content.config_records[_BODY], _JSON: body.canonical_bytes()}
    changed = RecordDict({_BODY: ConfigRecord(values)})
    if _BLOBS in content:
        changed[_BLOBS] = content[_BLOBS]
    return changed


def content_bytes(content: RecordDict) -> int:
    """Return the payload size of a message: all bytes of its body and blobs."""
    size = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    for config in content.config_records.values():
        size += sum(len(value) for value in config.values() if isinstance(value, bytes))
    return size


def is_refusal(content: RecordDict) -> bool:
    """Say whether a reply made by :func:`pack` is a refusal."""
    body: dict[str, object] = json.loads(cast(bytes, content.config_records[_BODY][_JSON]))
    return body.get("refused") is not None


def unpack(content: RecordDict, kind: type[Body], *, max_blob_bytes: int) -> tuple[Body, dict[str, bytes]]:
    """Read a message of the given kind: its body, and its blobs by name.

    Raises ``ProtocolError`` when the message isn't of that kind or passes ``max_blob_bytes`` in all.
    """
    configs, arrays = content.config_records, content.array_records
    parts = set(content)
    if (
        not {_BODY} <= parts <= {_BODY, _BLOBS}
        or not (parts - {_BODY}) <= set(arrays)
        or _BODY not in configs
        or _JSON not in configs[_BODY]
    ):
        raise ProtocolError(f"a {kind.__name__} message has other parts than a body and blobs")
    raw = configs[_BODY][_JSON]
    if not isinstance(raw, bytes) or len(raw) > MAX_BODY_BYTES:
        raise ProtocolError(
            f"the body of a {kind.__name__} message is not bytes, or longer than {MAX_BODY_BYTES}"
        )
    # An error is kept for every unknown key: a small body could ask for gigabytes of them.
    if raw.count(b":") > _MAX_COLONS:
        raise ProtocolError(f"the body of a {kind.__name__} message is malformed: it has too many keys")
    found = list(_found_blobs(configs[_BODY], arrays[_BLOBS] if _BLOBS in content else None, kind))
    size = sum(len(part) for _, parts in found for part in parts)
    if size > max_blob_bytes or len({name for name, _ in found}) < len(found):
        raise ProtocolError(f"the blobs of a {kind.__name__} message are too large, or one comes twice")
    blobs = {name: b"".join(parts) for name, parts in found}
    try:
        return kind.model_validate_json(raw), blobs
    except (ValidationError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise ProtocolError(f"the body of a {kind.__name__} message is malformed: {first}") from None


def _found_blobs(
    values: ConfigRecord, arrays: ArrayRecord | None, kind: type[Strict]
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the blobs of a message by name, in pieces; ``ProtocolError`` for one that isn't bytes."""
    for key, value in values.items():
        if key == _JSON:
            continue
        if not key.startswith(_SMALL) or not isinstance(value, bytes):
            raise ProtocolError(f"a {kind.__name__} message has a blob of a wrong type, or a part unknown")
        yield key.removeprefix(_SMALL), [value]
    pieces: dict[str, dict[str, bytes]] = {}
    for key, array in (arrays or {}).items():
        if array.stype != _BLOB_TYPE:
            raise ProtocolError(f"a {kind.__name__} message has a blob of a wrong type")
        name, _, number = key.rpartition("/")
        pieces.setdefault(name, {})[number] = array.data
    for name, parts in pieces.items():
        wanted = [str(number) for number in range(len(parts))]
        if set(parts) != set(wanted):
            raise ProtocolError(f"a {kind.__name__} message lacks a piece of a blob")
        yield name, [parts[number] for number in wanted]


def take_blob(blobs: Mapping[str, bytes], name: str) -> bytes:
    """Return a blob that must be there; ``ProtocolError`` when it's missing."""
    try:
        return blobs[name]
    except KeyError:
        raise ProtocolError(f"a message lacks its blob '{name}'") from None


def request_hash(body: Strict, blobs: Mapping[str, bytes]) -> str:
    """Return the hash by which a repeated request is known to be identical: body and every blob, by name."""
    parts = [
        sha256_hex(body.canonical_bytes()),
        *(f"{name}:{sha256_hex(blobs[name])}" for name in sorted(blobs)),
    ]
    return sha256_hex("\n".join(parts).encode())
